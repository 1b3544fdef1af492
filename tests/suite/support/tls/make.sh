#!/bin/sh
# Makes the certificates beside it anew. They are test data: the keys are public, so trust none.
# The authority's own key is thrown away, so every certificate is made in one go.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: > "$work/index"
echo 1000 > "$work/serial"
cat > "$work/config" <<END
[ca]
default_ca = test
[test]
database = $work/index
serial = $work/serial
new_certs_dir = $work
default_md = sha256
policy = anything
unique_subject = no
[anything]
commonName = supplied
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
[elsewhere]
basicConstraints = CA:FALSE
subjectAltName = DNS:db.example
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
[self_signed]
basicConstraints = critical, CA:TRUE
subjectAltName = DNS:localhost, IP:127.0.0.1
[common_name]
basicConstraints = critical, CA:TRUE
[expired]
subjectAltName = DNS:localhost, IP:127.0.0.1
END

# name, common name, end of validity, then how it is signed and extended
issue() {
    name=$1 subject=$2 end=$3
    shift 3
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$name.key"
    openssl req -new -config "$work/config" -key "$name.key" -subj "/CN=$subject" -out "$work/request"
    openssl ca -batch -notext -config "$work/config" -in "$work/request" \
        -startdate 20000101000000Z -enddate "$end" "$@" -out "$name.pem"
}
by_authority="-cert ca.pem -keyfile ca.key"
later=21000101000000Z
issue ca "Forebay test authority" $later -selfsign -keyfile ca.key -extensions authority
issue server localhost $later $by_authority -extensions server
issue elsewhere db.example $later $by_authority -extensions elsewhere
issue client bob $later $by_authority -extensions client
issue self_signed localhost $later -selfsign -keyfile self_signed.key -extensions self_signed
issue common_name localhost $later -selfsign -keyfile common_name.key -extensions common_name
issue expired localhost 20010101000000Z -selfsign -keyfile expired.key -extensions expired
issue version1 localhost $later -selfsign -keyfile version1.key
rm ca.key
