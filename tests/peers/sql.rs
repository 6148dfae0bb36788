//! The SQL of the documents, run by a database.

use std::path::Path;

use serde_json::{Value, json};

use super::python::python;

// R-V10
#[tokio::test]
async fn the_documented_sql_takes_copies_out_and_finds_gaps() {
    let Some(python) = python() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let statements: Vec<&str> =
        text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [without_copies, gaps] = statements[..] else { panic!("{} statements", statements.len()) };
    let directory = tempfile::tempdir().unwrap();
    let records = directory.path().join("records.json");
    let record = |daemon: &str, boot: u64, sequence: u64| {
        json!({ "text": "same", "hydrant": { "daemon": daemon, "boot": boot, "sequence": sequence } })
            .to_string()
    };
    let lines = [
        // Twice there, and one lost.
        record("a", 1, 0),
        record("a", 1, 1),
        record("a", 1, 1),
        record("a", 1, 3),
        // Another start of the same daemon, and another daemon.
        record("a", 2, 0),
        record("b", 1, 0),
        record("b", 1, 4),
    ];
    std::fs::write(&records, lines.join("\n")).unwrap();
    let run = async |sql: &str| -> Value {
        let output = python.run("http://127.0.0.1:9", "sql.py", &[records.to_str().unwrap(), sql]).await;
        serde_json::from_str(&output).unwrap()
    };
    assert_eq!(run(without_copies).await.as_array().unwrap().len(), 6);
    assert_eq!(run(gaps).await, json!([["a", 1, 2, 2], ["b", 1, 1, 3]]));
}
