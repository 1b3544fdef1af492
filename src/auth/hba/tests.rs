//! Rules and who they fit.

use super::*;

const MAPS: &str = "staff ann.example ann\n";

fn no_file(_path: &Path) -> io::Result<String> {
    Err(io::ErrorKind::NotFound.into())
}

fn parse_with(text: &str, read: Read<'_>) -> Result<Hba, Vec<HbaError>> {
    let maps = IdentMaps::parse(MAPS).expect("the maps are in order");
    Hba::parse(Path::new("/etc/forebay/hba.conf"), text, &maps, read)
}

/// Cases `database user address method`; `unix` is a Unix socket, a trailing `+tls` TLS, and the
/// method `none` that no rule fits.
fn check(rules: &str, cases: &[(&str, &str, &str, &str)]) {
    check_with(rules, cases, &no_file);
}

fn check_with(rules: &str, cases: &[(&str, &str, &str, &str)], read: Read<'_>) {
    let hba = parse_with(rules, read).expect("the rules are in order");
    for (database, user, from, expected) in cases {
        let plain = from.trim_end_matches("+tls");
        let asking = Asking {
            address: (plain != "unix").then(|| plain.parse().expect("an address")),
            tls: plain != *from,
            replication: false,
            databases: &[database],
            user,
        };
        let found = hba.rule(&asking).map_or("none", |rule| word(rule.method));
        assert_eq!(found, *expected, "{database} {user} {from}");
    }
}

fn word(method: HbaMethod) -> &'static str {
    match method {
        HbaMethod::Trust => "trust",
        HbaMethod::Reject => "reject",
        HbaMethod::Md5 => "md5",
        HbaMethod::Password => "password",
        HbaMethod::ScramSha256 => "scram-sha-256",
        HbaMethod::Cert => "cert",
        HbaMethod::Peer => "peer",
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    check(
        "# comment\n\nlocal all root peer\nlocal all all md5\nhost all all 10.0.0.0/8 reject\n\
         host all all all scram-sha-256\n",
        &[
            ("app", "root", "unix", "peer"),
            ("app", "ann", "unix", "md5"),
            ("app", "root", "10.1.2.3", "reject"),
            ("app", "root", "11.1.2.3", "scram-sha-256"),
            ("app", "root", "::1", "scram-sha-256"),
        ],
    );
}

#[test]
fn a_rule_for_tls_does_not_fit_without_and_the_other_way_round() {
    check(
        "hostssl all all 10.0.0.0/8 cert\nhostnossl all all 11.0.0.0/8 md5\n",
        &[
            ("app", "ann", "10.0.0.1+tls", "cert"),
            ("app", "ann", "10.0.0.1", "none"),
            ("app", "ann", "11.0.0.1+tls", "none"),
            ("app", "ann", "11.0.0.1", "md5"),
            ("app", "ann", "unix", "none"),
        ],
    );
}

#[test]
fn lists_name_databases_and_users() {
    check(
        "host one,two ann , bob all trust\nhost sameuser all all md5\nhost \"all\" \"a , b\" all peer\n",
        &[
            ("one", "ann", "1.1.1.1", "trust"),
            ("two", "bob", "1.1.1.1", "trust"),
            ("three", "bob", "1.1.1.1", "none"),
            ("one", "eve", "1.1.1.1", "none"),
            ("eve", "eve", "1.1.1.1", "md5"),
            ("all", "a , b", "1.1.1.1", "peer"),
            ("one", "a , b", "1.1.1.1", "none"),
        ],
    );
}

#[test]
fn addresses_are_masked() {
    check(
        "host all all 127.0.0.0 255.255.255.0 trust\nhost all all 199.9.9.9/32 md5\n\
         host all all 128.0.0.0/1 cert\nhost all all ff20::/12 password\nhost all all 0.0.0.0/0 reject\n",
        &[
            ("app", "ann", "127.0.0.200", "trust"),
            ("app", "ann", "127.0.1.1", "reject"),
            ("app", "ann", "199.9.9.9", "md5"),
            ("app", "ann", "199.9.9.8", "cert"),
            ("app", "ann", "ff22:3::1", "password"),
            ("app", "ann", "ff32::1", "none"),
        ],
    );
}

#[test]
fn replication_is_of_no_database_but_its_own_word() {
    let hba = parse_with("host all all all md5\nhost replication,app ann all trust\n", &no_file);
    let hba = hba.expect("the rules are in order");
    let find = |user: &str, replication: bool, database: &str| {
        let address = Some("::1".parse().expect("an address"));
        let asking = Asking { address, tls: false, replication, databases: &[database], user };
        hba.rule(&asking).map(|rule| rule.line)
    };
    assert_eq!(find("ann", true, "app"), Some(2));
    assert_eq!(find("ann", false, "replication"), Some(1));
    assert_eq!(find("bob", true, "app"), None);
}

#[test]
fn names_may_stand_in_files_beside_the_rules() {
    let read = |path: &Path| match path.to_str() {
        Some("/etc/forebay/dbs") => Ok("one, two\n\n# more\n@lists/more\n".to_owned()),
        Some("/etc/forebay/lists/more") => Ok("\"three\"".to_owned()),
        _ => no_file(path),
    };
    check_with(
        "host @dbs,four all all trust\n",
        &[
            ("one", "ann", "1.1.1.1", "trust"),
            ("three", "ann", "1.1.1.1", "trust"),
            ("four", "ann", "1.1.1.1", "trust"),
            ("five", "ann", "1.1.1.1", "none"),
        ],
        &read,
    );
    let endless = |_: &Path| Ok("@self\n".to_owned());
    let errors = parse_with("host @self all all trust\n", &endless).expect_err("no end");
    assert!(errors[0].to_string().contains("too many files"), "{errors:?}");
}

#[test]
fn a_map_must_be_known() {
    let hba = parse_with("hostssl all all all cert map=staff\n", &no_file).expect("in order");
    assert!(hba.rules[0].map.as_ref().is_some_and(|map| map.name == "staff"));
    let errors = parse_with("hostssl all all all cert map=crew\n", &no_file).expect_err("unknown");
    assert_eq!(errors[0].to_string(), "line 1: map crew is not in auth_ident_file");
}

#[test]
fn every_line_that_cannot_be_read_is_named() {
    for (line, expected) in [
        ("hosts all all all md5", HbaCause::Kind),
        ("host all", HbaCause::Names),
        ("host all, all all md5 x y", HbaCause::Address),
        ("host +admins all all md5", HbaCause::UnsupportedName("+admins".into())),
        ("host samerole all all md5", HbaCause::UnsupportedName("samerole".into())),
        ("host all all samehost md5", HbaCause::Address),
        ("host all all 1.2.3.4 md5", HbaCause::Mask),
        ("host all all 1.2.3.4/33 md5", HbaCause::Mask),
        ("host all all 1.2.3.4/ md5", HbaCause::Mask),
        ("host all all 1.2.3.4 ::1 md5", HbaCause::Mask),
        ("host all all all ldap ldapserver=x", HbaCause::ForeignMethod("ldap".into())),
        ("host all all all pam", HbaCause::ForeignMethod("pam".into())),
        ("host all all all gss", HbaCause::Method),
        ("host all all all", HbaCause::Method),
        ("host all all all md5 clientcert=1", HbaCause::Option("clientcert=1".into())),
        ("host \"all all all md5", HbaCause::Unclosed),
    ] {
        let errors = parse_with(&format!("\n{line}\n"), &no_file).expect_err(line);
        assert_eq!(errors, [HbaError { line: 2, cause: expected }], "{line}");
    }
}

#[test]
fn an_address_outside_its_own_mask_is_told() {
    let hba = parse_with("host all all 192.168.1.1/0 md5\nhost all all 0.0.0.0/0 md5\n", &no_file);
    let hba = hba.expect("the rules are in order");
    assert_eq!(hba.lines_that_fit_nobody().collect::<Vec<_>>(), [1]);
}
