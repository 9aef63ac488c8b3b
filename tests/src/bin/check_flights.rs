//! `check-flights [DIR]`: compares the output of `up --job examples/flights.sql`, run in DIR, with the oracle.

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let home = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let lines = tests::flights::check(&home)?;
    println!("{} rows, all as computed independently", lines.len());
    Ok(())
}
