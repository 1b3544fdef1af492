//! libpq as a client, through psql.

use std::process::Command;

use super::postgres::binary;

/// Runs SQL and gives what was printed, unaligned and without headings, or the error.
pub fn psql(connection: &str, sql: &str) -> Result<String, String> {
    let output = Command::new(binary("psql"))
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, connection])
        .env("PGCONNECT_TIMEOUT", "20")
        .current_dir("/")
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
