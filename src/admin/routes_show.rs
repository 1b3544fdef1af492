//! What pages cost: `SHOW ROUTES`.

use std::cmp::Reverse;

use crate::insight::RouteRow;

use super::table::{Columns, Table, int8, percent, text, time, value};

/// What is summed.
const OTHER: &str = "(other)";

pub const ROUTES: Columns = &[
    text("route"),
    text("application"),
    text("database"),
    text("user"),
    text("application_name"),
    int8("requests"),
    int8("queries"),
    text("queries_per_request"),
    int8("server_queries"),
    text("server_queries_per_request"),
    text("hit_rate"),
    int8("total_time"),
    int8("mean_time"),
    int8("p95_time"),
    int8("worst_queries"),
    int8("worst_time"),
    text("worst_at"),
    int8("slow"),
    int8("over_budget"),
];

/// Those first that took most time. Times in microseconds, of whole requests but for `total_time`.
pub fn routes(mut routes: Vec<RouteRow>) -> Table {
    routes.sort_by_key(|row| (row.of.is_none(), Reverse(row.tally.sums.time)));
    let mut table = Table::new(ROUTES);
    for RouteRow { of, tally } in &routes {
        let sums = &tally.sums;
        let named = |name: &str| if of.is_some() { name.to_owned() } else { OTHER.to_owned() };
        let (route, owner) = of.as_ref().map(|(route, owner)| (&**route, owner)).unzip();
        let of_route = |name: fn(&crate::insight::Route) -> &str| named(route.map_or("", name));
        let of_owner = |name: fn(&crate::insight::Owner) -> &str| named(owner.map_or("", name));
        table.push(vec![
            value(of_route(|route| &route.name)),
            value(of_route(|route| &route.application)),
            value(of_owner(|owner| &owner.database)),
            value(of_owner(|owner| &owner.user)),
            value(of_owner(|owner| &owner.application_name)),
            value(tally.requests),
            value(sums.queries),
            value(per(sums.queries, tally.requests)),
            value(sums.sent),
            value(per(sums.sent, tally.requests)),
            value(percent(sums.hits, sums.hits.saturating_add(sums.misses))),
            value(sums.time),
            value(sums.time.checked_div(tally.requests).unwrap_or(0)),
            value(tally.times.quantile(95)),
            tally.worst.map(|worst| worst.queries.to_string()),
            tally.worst.map(|worst| worst.time.to_string()),
            tally.worst.map(|worst| time(worst.at)),
            value(sums.slow),
            value(tally.over_budget),
        ]);
    }
    table
}

/// With one decimal; 0.0 of nothing.
fn per(count: u64, requests: u64) -> String {
    let tenths = (u128::from(count) * 10).checked_div(u128::from(requests)).unwrap_or(0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use crate::insight::{Owner, Request, Route, Routes, Sums, Tag};

    #[test]
    fn a_route_shows_what_its_requests_cost_and_the_rest_is_last() {
        let routes = Routes::new(2, 30);
        let requests =
            [("/old", 9, 9000), ("/list", 31, 500), ("/list", 2, 300), ("/slow", 1, 800_000)];
        for (name, queries, time) in requests {
            let route = Route { name: name.into(), application: "shop".into() };
            let tag = Tag { route: Arc::new(route), request: 0 };
            let mut request = Request::new(&tag, false);
            request.add(&Sums {
                queries,
                sent: 1,
                hits: queries - 1,
                misses: 1,
                slow: time / 500_000,
                time,
            });
            let owner = || Owner {
                database: "app".into(),
                user: "ann".into(),
                application_name: "web".into(),
            };
            routes.tell(&mut request, owner, SystemTime::UNIX_EPOCH + Duration::from_mins(1));
        }
        let table = super::routes(routes.rows());
        let row = |row: &Vec<Option<String>>| {
            row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|")
        };
        let expected = [
            "/slow|shop|app|ann|web|1|1|1.0|1|1.0|0.0|800000|800000|851967|1|800000|1970-01-01 00:01:00 UTC|1|0",
            "/list|shop|app|ann|web|2|33|16.5|2|1.0|93.9|800|400|479|31|500|1970-01-01 00:01:00 UTC|0|1",
            "(other)|(other)|(other)|(other)|(other)|1|9|9.0|1|1.0|88.8|9000|9000|9215|9|9000|1970-01-01 00:01:00 UTC|0|0",
        ];
        assert_eq!(table.rows.iter().map(row).collect::<Vec<_>>(), expected);
    }
}
