//! PgBouncer's other commands: pools, sockets, databases, users, lists, settings, state.

use crate::config::{Config, Shown};

use super::pause::Activity;
use super::snapshot::{Database, Lists, Memory, Peer, Pool, Side, Socket, User};
use super::table::{
    Column, Columns, Table, Value, host_and_port, int4, int8, seconds_and_micros, text, time, value,
};

pub const POOLS: Columns = &[
    text("database"),
    text("user"),
    int4("cl_active"),
    int4("cl_waiting"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active"),
    int4("sv_active_cancel"),
    int4("sv_being_canceled"),
    int4("sv_idle"),
    int4("sv_used"),
    int4("sv_tested"),
    int4("sv_login"),
    int4("maxwait"),
    int4("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
];

pub fn pools(pools: &[Pool]) -> Table {
    let mut table = Table::new(POOLS);
    for pool in pools {
        let [wait, wait_us] = seconds_and_micros(pool.max_wait);
        table.push(vec![
            value(&pool.database),
            value(&pool.user),
            value(pool.clients_active),
            value(pool.clients_waiting),
            value(pool.cancels),
            value(0),
            value(pool.servers_active),
            value(0),
            value(pool.servers_canceled),
            value(pool.servers_idle),
            value(0),
            value(0),
            value(pool.servers_login),
            wait,
            wait_us,
            value(pool.mode),
            pool.load_balance_hosts.map(str::to_owned),
        ]);
    }
    table
}

const SOCKET_COLUMNS: [Column; 21] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int4("port"),
    text("local_addr"),
    int4("local_port"),
    text("connect_time"),
    text("request_time"),
    int4("wait"),
    int4("wait_us"),
    int4("close_needed"),
    text("ptr"),
    text("link"),
    int4("remote_pid"),
    text("tls"),
    text("application_name"),
    int4("prepared_statements"),
    int4("id"),
];

/// `SHOW CLIENTS` and `SHOW SERVERS`.
pub const CLIENTS: Columns = &SOCKET_COLUMNS;

const BUFFER_COLUMNS: [Column; 7] = [
    int4("recv_pos"),
    int4("pkt_pos"),
    int4("pkt_remain"),
    int4("send_pos"),
    int4("send_remain"),
    int4("pkt_avail"),
    int4("send_avail"),
];

/// `SHOW SOCKETS` and `SHOW ACTIVE_SOCKETS`, of those that do something: both lists of columns in
/// one.
pub const SOCKETS: Columns = &{
    let mut columns = [text(""); 28];
    let mut at = 0;
    #[expect(clippy::indexing_slicing, reason = "checked when compiled")]
    while at < 28 {
        columns[at] = if at < 21 { SOCKET_COLUMNS[at] } else { BUFFER_COLUMNS[at - 21] };
        at += 1;
    }
    columns
};

pub fn clients(sockets: &[Socket]) -> Table {
    let mut table = Table::new(CLIENTS);
    for socket in sockets {
        table.push(socket_row(socket, socket.state.to_owned()));
    }
    table
}

pub fn sockets(sockets: &[Socket]) -> Table {
    let mut table = Table::new(SOCKETS);
    for socket in sockets {
        let prefix = match socket.side {
            Side::Client => "cl",
            Side::Server => "sv",
        };
        let mut row = socket_row(socket, format!("{prefix}_{}", socket.state));
        // Forebay's buffers are not PgBouncer's; what they hold is nobody's business here.
        row.extend(BUFFER_COLUMNS.map(|_| value(0)));
        table.push(row);
    }
    table
}

fn socket_row(socket: &Socket, state: String) -> Vec<Value> {
    let (side, other) = match socket.side {
        Side::Client => ("C", "S"),
        Side::Server => ("S", "C"),
    };
    let [wait, wait_us] = seconds_and_micros(socket.wait);
    let (address, port) = host_and_port(&socket.ends.address);
    let (local, local_port) = host_and_port(&socket.ends.local);
    let link = socket.link.map(|id| format!("{other}-{id}")).unwrap_or_default();
    vec![
        value(side),
        value(&socket.user),
        value(&socket.database),
        value(socket.replication),
        Some(state),
        value(address),
        value(port),
        value(local),
        value(local_port),
        value(time(socket.connected_at)),
        value(time(socket.request_at)),
        wait,
        wait_us,
        value(i32::from(socket.close_needed)),
        value(format!("{side}-{}", socket.id)),
        Some(link),
        value(socket.remote_pid),
        value(socket.tls.as_deref().unwrap_or_default()),
        value(&socket.application_name),
        value(socket.prepared_statements),
        value(socket.id),
    ]
}

pub const DATABASES: Columns = &[
    text("name"),
    text("host"),
    int4("port"),
    text("database"),
    text("force_user"),
    int4("pool_size"),
    int4("min_pool_size"),
    int4("reserve_pool_size"),
    int4("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int4("max_connections"),
    int4("current_connections"),
    int4("max_client_connections"),
    int4("current_client_connections"),
    int4("paused"),
    int4("disabled"),
];

pub fn databases(databases: &[Database]) -> Table {
    let mut table = Table::new(DATABASES);
    for database in databases {
        table.push(vec![
            value(&database.name),
            database.host.clone(),
            value(database.port),
            value(&database.database),
            database.force_user.clone(),
            value(database.pool_size),
            value(database.min_pool_size),
            value(database.reserve_pool_size),
            value(database.server_lifetime.as_secs()),
            database.mode.map(|mode| mode.name().to_owned()),
            database.load_balance_hosts.map(str::to_owned),
            value(database.servers_max),
            value(database.servers),
            value(database.clients_max),
            value(database.clients),
            value(i32::from(database.paused)),
            value(i32::from(database.disabled)),
        ]);
    }
    table
}

pub const USERS: Columns = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int4("max_user_connections"),
    int4("current_connections"),
    int4("max_user_client_connections"),
    int4("current_client_connections"),
];

pub fn users(users: &[User]) -> Table {
    let mut table = Table::new(USERS);
    // PgBouncer's own width.
    let padded =
        |size: Option<u32>| value(size.map(|size| format!("{size:9}")).unwrap_or_default());
    for user in users {
        table.push(vec![
            value(&user.name),
            padded(user.pool_size),
            padded(user.reserve_pool_size),
            user.mode.map(str::to_owned),
            value(user.servers_max),
            value(user.servers),
            value(user.clients_max),
            value(user.clients),
        ]);
    }
    table
}

pub const LISTS: Columns = &[text("list"), int4("items")];

pub fn lists(lists: Lists) -> Table {
    let mut table = Table::new(LISTS);
    let rows = [
        ("databases", lists.databases),
        ("users", lists.users),
        ("peers", lists.peers),
        ("pools", lists.pools),
        ("peer_pools", lists.peer_pools),
        ("free_clients", lists.clients_max.saturating_sub(lists.clients)),
        ("used_clients", lists.clients),
        ("login_clients", lists.clients_logging_in),
        ("free_servers", lists.servers_idle),
        ("used_servers", lists.servers_active),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    for (list, items) in rows {
        table.push(vec![value(list), value(items)]);
    }
    table
}

pub const CONFIG: Columns = &[text("key"), text("value"), text("default"), text("changeable")];

pub fn config(config: &Config) -> Table {
    let mut table = Table::new(CONFIG);
    for Shown { name, value: shown, default, changeable } in config.show() {
        let changeable = if changeable { "yes" } else { "no" };
        table.push(vec![value(name), Some(shown), Some(default), value(changeable)]);
    }
    table
}

pub const STATE: Columns = &[text("key"), text("value")];

pub fn state(activity: Activity) -> Table {
    let mut table = Table::new(STATE);
    let states = [
        ("active", Activity::Active),
        ("paused", Activity::Paused),
        ("suspended", Activity::Suspended),
    ];
    for (key, state) in states {
        table.push(vec![value(key), value(if state == activity { "yes" } else { "no" })]);
    }
    table
}

pub const VERSION: Columns = &[text("version")];

/// The first line of `--version`.
pub const VERSION_TEXT: &str = concat!("Forebay ", env!("CARGO_PKG_VERSION"));

pub fn version() -> Table {
    let mut table = Table::new(VERSION);
    table.push(vec![value(VERSION_TEXT)]);
    table
}

pub const MEM: Columns =
    &[text("name"), int4("size"), int4("used"), int4("free"), int4("memtotal")];

/// PgBouncer's rows are its allocators; ours are what there is most of. None keeps free ones.
pub fn mem(memory: &[Memory]) -> Table {
    let mut table = Table::new(MEM);
    // The columns are of a type that ends at two gigabytes.
    let bounded = |number: u64| value(number.min(i32::MAX.unsigned_abs().into()));
    for one in memory {
        let each = one.bytes.checked_div(one.count).unwrap_or(0);
        table.push(vec![
            value(one.name),
            bounded(each),
            bounded(one.count),
            value(0),
            bounded(one.bytes),
        ]);
    }
    table
}

pub const PEERS: Columns = &[int4("peer_id"), text("host"), int4("port"), int4("pool_size")];

pub fn peers(peers: &[Peer]) -> Table {
    let mut table = Table::new(PEERS);
    for peer in peers {
        let (host, pool_size) = (value(&peer.host), value(peer.pool_size));
        table.push(vec![value(peer.id), host, value(peer.port), pool_size]);
    }
    table
}

pub const PEER_POOLS: Columns = &[
    int4("peer_id"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active_cancel"),
    int4("sv_login"),
];

/// Peers that cancel requests have been passed on to, and how many are on their way.
pub fn peer_pools(pools: &[(u16, usize)]) -> Table {
    let mut table = Table::new(PEER_POOLS);
    for (id, cancels) in pools {
        table.push(vec![value(id), value(cancels), value(0), value(cancels), value(0)]);
    }
    table
}

/// Names are resolved by the system, which tells nobody what it remembers: no rows.
pub const DNS_HOSTS: Columns = &[text("hostname"), int8("ttl"), text("addrs")];

/// As above.
pub const DNS_ZONES: Columns = &[text("zonename"), int8("serial"), int4("count")];

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::snapshot::Ends;
    use super::super::table::Kind;
    use super::*;

    /// `name` or `name:i`; text where nothing is said.
    fn check(columns: Columns, expected: &str) {
        let found: Vec<String> = columns
            .iter()
            .map(|column| match column.kind {
                Kind::Int4 => format!("{}:i", column.name),
                Kind::Int8 => format!("{}:q", column.name),
                Kind::Numeric => format!("{}:N", column.name),
                Kind::Bytea => format!("{}:b", column.name),
                Kind::Text => column.name.to_owned(),
            })
            .collect();
        assert_eq!(found.join(" "), expected);
    }

    const CLIENT_COLUMNS: &str = "type user database replication state addr port:i local_addr \
         local_port:i connect_time request_time wait:i wait_us:i close_needed:i ptr link \
         remote_pid:i tls application_name prepared_statements:i id:i";

    #[test]
    fn columns_are_those_of_pgbouncer_1_25() {
        check(
            POOLS,
            "database user cl_active:i cl_waiting:i cl_active_cancel_req:i \
             cl_waiting_cancel_req:i sv_active:i sv_active_cancel:i sv_being_canceled:i \
             sv_idle:i sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i pool_mode \
             load_balance_hosts",
        );
        check(CLIENTS, CLIENT_COLUMNS);
        check(
            SOCKETS,
            &format!(
                "{CLIENT_COLUMNS} recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i \
                 pkt_avail:i send_avail:i"
            ),
        );
        check(
            DATABASES,
            "name host port:i database force_user pool_size:i min_pool_size:i \
             reserve_pool_size:i server_lifetime:i pool_mode load_balance_hosts \
             max_connections:i current_connections:i max_client_connections:i \
             current_client_connections:i paused:i disabled:i",
        );
        check(
            USERS,
            "name pool_size reserve_pool_size pool_mode max_user_connections:i \
             current_connections:i max_user_client_connections:i current_client_connections:i",
        );
        check(LISTS, "list items:i");
        check(CONFIG, "key value default changeable");
        check(STATE, "key value");
        check(VERSION, "version");
        check(MEM, "name size:i used:i free:i memtotal:i");
        check(PEERS, "peer_id:i host port:i pool_size:i");
        check(
            PEER_POOLS,
            "peer_id:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i \
             sv_login:i",
        );
        check(DNS_HOSTS, "hostname ttl:q addrs");
        check(DNS_ZONES, "zonename serial:q count:i");
        check(
            super::super::fds_show::FDS,
            "fd:i task user database addr port:i cancel:q link:i client_encoding std_strings \
             datestyle timezone password scram_client_key:b scram_server_key:b",
        );
    }

    fn socket() -> Socket {
        Socket {
            side: Side::Client,
            id: 7,
            user: "ann".into(),
            database: "app".into(),
            state: "waiting",
            ends: Ends { address: "[::1]:4000".into(), local: "127.0.0.1:6432".into() },
            connected_at: SystemTime::UNIX_EPOCH,
            request_at: SystemTime::UNIX_EPOCH + Duration::from_mins(1),
            wait: Duration::from_micros(2_000_003),
            close_needed: false,
            link: Some(9),
            remote_pid: 0,
            tls: None,
            application_name: "web".into(),
            plain_name: "web".into(),
            replication: "none",
            prepared_statements: 2,
        }
    }

    #[test]
    fn a_client_is_shown_with_addresses_waits_and_its_server() {
        let table = clients(&[socket()]);
        let row: Vec<&str> = table.rows[0].iter().map(|value| value.as_deref().unwrap()).collect();
        assert_eq!(
            row,
            [
                "C",
                "ann",
                "app",
                "none",
                "waiting",
                "::1",
                "4000",
                "127.0.0.1",
                "6432",
                "1970-01-01 00:00:00 UTC",
                "1970-01-01 00:01:00 UTC",
                "2",
                "3",
                "0",
                "C-7",
                "S-9",
                "0",
                "",
                "web",
                "2",
                "7",
            ]
        );
    }

    #[test]
    fn sockets_have_prefixed_states() {
        let table = sockets(&[socket(), Socket { side: Side::Server, state: "idle", ..socket() }]);
        assert_eq!(table.rows[0][4].as_deref(), Some("cl_waiting"));
        assert_eq!(table.rows[1][4].as_deref(), Some("sv_idle"));
        assert_eq!(table.rows[1][15].as_deref(), Some("C-9"));
    }

    #[test]
    fn lists_have_the_rows_exporters_look_for() {
        let table = lists(Lists {
            databases: 2,
            users: 3,
            pools: 1,
            clients_max: 100,
            clients: 1,
            clients_logging_in: 3,
            servers_idle: 4,
            servers_active: 5,
            peers: 6,
            peer_pools: 7,
        });
        let rows: Vec<String> = table
            .rows
            .iter()
            .map(|row| format!("{}={}", row[0].as_deref().unwrap(), row[1].as_deref().unwrap()))
            .collect();
        assert_eq!(
            rows.join(" "),
            "databases=2 users=3 peers=6 pools=1 peer_pools=7 free_clients=99 used_clients=1 \
             login_clients=3 free_servers=4 used_servers=5 dns_names=0 dns_zones=0 dns_queries=0 \
             dns_pending=0"
        );
    }

    #[test]
    fn settings_are_listed_with_what_exporters_need() {
        let table = config(&Config::defaults(crate::config::Base::PgBouncer));
        let find = |key: &str| {
            table.rows.iter().find(|row| row[0].as_deref() == Some(key)).cloned().unwrap()
        };
        assert_eq!(find("max_client_conn")[1].as_deref(), Some("100"));
        assert_eq!(find("max_user_connections")[1].as_deref(), Some("0"));
        assert_eq!(find("listen_port")[3].as_deref(), Some("no"));
    }

    #[test]
    fn what_is_going_on_is_one_of_three() {
        let table = state(Activity::Suspended);
        let rows: Vec<&str> = table.rows.iter().map(|row| row[1].as_deref().unwrap()).collect();
        assert_eq!(rows, ["no", "no", "yes"]);
    }

    #[test]
    fn memory_is_bounded_by_the_type_of_its_columns() {
        let table = mem(&[
            Memory { name: "client", count: 2, bytes: 4000 },
            Memory { name: "cache", count: 1, bytes: 1 << 40 },
        ]);
        let rows: Vec<Vec<&str>> = table
            .rows
            .iter()
            .map(|row| row.iter().map(|value| value.as_deref().unwrap()).collect())
            .collect();
        assert_eq!(rows[0], ["client", "2000", "2", "0", "4000"]);
        assert_eq!(rows[1], ["cache", "2147483647", "1", "0", "2147483647"]);
    }
}
