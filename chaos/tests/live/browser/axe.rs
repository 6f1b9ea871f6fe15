//! axe-core, which judges what stands in the way of people who cannot see or point. `scripts/setup.sh browser` fetches it; it is not
//! this project's to hand on.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Tab;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/axe-core/axe.min.js")
}

/// What it finds that is serious or critical, one line each.
pub async fn serious(tab: &Tab) -> Vec<String> {
    let path = source();
    let script = std::fs::read_to_string(&path);
    let script =
        script.unwrap_or_else(|error| panic!("{}: {error}: run 'scripts/setup.sh browser'", path.display()));
    // Its own, in the page: the page's policy does not bind the debugger.
    tab.ask(&format!("{script}; typeof axe")).await;
    let run = "axe.run(document, { resultTypes: ['violations', 'incomplete'] }).then(r => JSON.stringify({ v: r.violations, n: r.passes.length }))";
    let answer = tab.ask(run).await;
    let found: Value = serde_json::from_str(answer.as_str().unwrap()).unwrap();
    assert!(
        found["n"].as_u64().unwrap() > 15,
        "axe looked at nothing: {found}"
    );
    let violations = found["v"].as_array().unwrap().iter();
    violations
        .filter(|v| v["impact"] == "serious" || v["impact"] == "critical" || v["impact"] == "moderate")
        .map(|v| format!("{} ({}): {} in {}", v["id"], v["impact"], v["help"], v["nodes"]))
        .collect()
}
