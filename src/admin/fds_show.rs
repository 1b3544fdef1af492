//! `SHOW FDS`: the sockets of clients and servers, as PgBouncer hands them to its successor. The
//! descriptors themselves are not sent along, since a Forebay is never taken over.

use super::snapshot::Descriptor;
use super::table::{Columns, Table, bytea, host_and_port, int4, int8, text, value};

pub const FDS: Columns = &[
    int4("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int4("port"),
    int8("cancel"),
    int4("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    bytea("scram_client_key"),
    bytea("scram_server_key"),
];

pub fn fds(descriptors: &[Descriptor]) -> Table {
    let mut table = Table::new(FDS);
    for descriptor in descriptors {
        let (address, port) = host_and_port(&descriptor.address);
        table.push(vec![
            value(descriptor.fd),
            value(descriptor.task),
            value(&descriptor.user),
            value(&descriptor.database),
            value(address),
            value(port),
            value(descriptor.cancel),
            value(descriptor.link),
            None,
            None,
            None,
            None,
            None,
            None,
            None,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_among_what_is_shown() {
        let table = fds(&[Descriptor {
            fd: 9,
            task: "client",
            user: "ann".into(),
            database: "app".into(),
            address: "10.0.0.1:4000".into(),
            cancel: 7,
            link: 11,
        }]);
        let row: Vec<&str> =
            table.rows[0].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
        assert_eq!(
            row.join(" "),
            "9 client ann app 10.0.0.1 4000 7 11 NULL NULL NULL NULL NULL NULL NULL"
        );
    }
}
