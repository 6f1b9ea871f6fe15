//! `pgbaton history`: the last terms.

use super::End;
use super::access::Cluster;
use super::status::{Output, StatusArgs};
use super::table::table;
use super::words;
use crate::core::record::Record;

/// Prints the history, newest term last.
pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<End> {
    let cluster = Cluster::open(&args.cluster).await?;
    let record = match cluster.read().await?.record {
        Ok(record) => record,
        Err(damage) => {
            eprintln!("pgbaton: {damage}");
            return Ok(End::Failed);
        }
    };
    match args.output {
        Output::Table => print!("{}", page(&record)),
        Output::Json => println!("{:#}", serde_json::json!(record.history)),
    }
    Ok(End::Done)
}

pub(super) fn page(record: &Record) -> String {
    if record.history.is_empty() {
        return "no term yet\n".to_owned();
    }
    let rows: Vec<Vec<String>> = record
        .history
        .iter()
        .map(|entry| {
            let phases: Vec<String> = entry
                .phases
                .iter()
                .map(|(name, ms)| format!("{name} {ms} ms"))
                .collect();
            vec![
                entry.term.to_string(),
                words::moment(entry.at_unix_ms),
                entry.member.to_string(),
                entry.lsn.to_string(),
                entry.why.clone(),
                phases.join(", "),
            ]
        })
        .collect();
    table(&["TERM", "SINCE", "MEMBER", "LSN", "WHY", "PHASES"], &rows)
}
