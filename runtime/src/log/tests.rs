//! Facts about the log.

use proptest::prelude::*;
use tracing::{debug, error, info, info_span, trace, warn};

use super::*;

fn logged(config: &LogConfig, work: impl FnOnce(&LogHandle)) -> String {
    let (subscriber, handle) = build(config, Output::memory());
    tracing::subscriber::with_default(subscriber, || work(&handle));
    handle.output.taken()
}

/// The lines without their times.
fn timeless(lines: &str) -> Vec<&str> {
    lines
        .lines()
        .map(|line| line.split_once(" level=").unwrap().1)
        .collect()
}

#[test]
fn a_text_line_is_what_spires_operators_grep() {
    let lines = logged(&LogConfig::default(), |_| {
        info!(spiffe.id = %"spiffe://example.org/a", entry.id = "x1", count = 3, "Issued X509-SVID");
        warn!(ok = false, "Degraded");
    });
    assert!(lines.starts_with("time=\"20"));
    assert_eq!(
        timeless(&lines),
        [
            "info msg=\"Issued X509-SVID\" count=3 entry.id=x1 spiffe.id=\"spiffe://example.org/a\"",
            "warning msg=Degraded ok=false",
        ]
    );
}

#[test]
fn a_json_line_is_one_object() {
    let config = LogConfig {
        format: Format::Json,
        ..LogConfig::default()
    };
    let lines = logged(&config, |_| {
        error!(error.reason = "full", msg = "inner", "Failed");
    });
    let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "Failed");
    assert_eq!(line["error.reason"], "full");
    assert_eq!(line["fields.msg"], "inner");
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn the_fields_of_spans_belong_to_their_events() {
    let lines = logged(&LogConfig::default(), |_| {
        let outer = info_span!("rpc", rpc.method = "FetchX509SVID", peer.pid = 7_u32).entered();
        let inner = info_span!("attest", peer.pid = 8_u32, attestor = tracing::field::Empty);
        inner.record("attestor", "unix");
        inner.in_scope(|| info!("Attested"));
        drop(outer);
    });
    assert_eq!(
        timeless(&lines),
        ["info msg=Attested attestor=unix peer.pid=8 rpc.method=FetchX509SVID"]
    );
}

#[test]
fn the_level_can_be_changed_while_it_runs() {
    let lines = logged(
        &LogConfig {
            level: Level::Warn,
            ..LogConfig::default()
        },
        |handle| {
            info!("Unheard");
            handle.set_level(Level::Debug);
            debug!("Heard");
            debug!(target: "h2::codec", "Chatter");
            handle.set_level(Level::Trace);
            trace!(target: "h2::codec", "Wire");
        },
    );
    assert_eq!(timeless(&lines), ["debug msg=Heard", "trace msg=Wire"]);
}

#[test]
fn the_source_location_is_told_when_asked() {
    let config = LogConfig {
        source_location: true,
        ..LogConfig::default()
    };
    let lines = logged(&config, |_| info!("Here"));
    assert!(lines.contains("file=\"tests.rs:"), "{lines}");
    assert!(lines.contains("func=\"runtime::log::tests\""), "{lines}");
}

#[test]
fn a_moved_file_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.log");
    let config = LogConfig {
        file: Some(path.clone()),
        ..LogConfig::default()
    };
    let (subscriber, handle) = build(&config, Output::open(config.file.clone()).unwrap());
    tracing::subscriber::with_default(subscriber, || {
        info!("First");
        std::fs::rename(&path, folder.path().join("agent.log.1")).unwrap();
        handle.reopen().unwrap();
        info!("Second");
    });
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .ends_with("msg=Second\n")
    );
}

#[test]
fn reads_spires_names() {
    assert_eq!(Level::parse("WARNING").unwrap(), Level::Warn);
    assert_eq!(
        Level::parse("loud").unwrap_err().reason(),
        "unknown_log_level"
    );
    assert_eq!(Format::parse("JSON").unwrap(), Format::Json);
    assert_eq!(Format::parse("").unwrap(), Format::Text);
    assert_eq!(
        Format::parse("xml").unwrap_err().reason(),
        "unknown_log_format"
    );
}

#[test]
fn a_huge_value_is_cut() {
    let lines = logged(&LogConfig::default(), |_| {
        info!(value = "é".repeat(100_000), "Cut");
    });
    assert!(lines.len() < 5000);
}

proptest! {
    #[test]
    fn no_value_ends_its_line_or_its_quotes(value in any::<String>()) {
        for format in [Format::Text, Format::Json] {
            let config = LogConfig { format, ..LogConfig::default() };
            let lines = logged(&config, |_| info!(value, "Value"));
            prop_assert_eq!(lines.matches('\n').count(), 1);
            prop_assert!(!lines.trim_end_matches('\n').chars().any(char::is_control));
        }
        let config = LogConfig { format: Format::Json, ..LogConfig::default() };
        let lines = logged(&config, |_| info!(value, "Value"));
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        prop_assert_eq!(line["value"].as_str().unwrap(), value);
    }
}
