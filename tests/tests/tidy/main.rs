//! House rules as tests: dependencies, licences, layout, confinement, and the tests that papers cite.
//!
//! A rule that only a page states is broken within a month. Each of these reads the tree as it
//! stands, and its message says what to do.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test tells of a broken set-up by panicking"
)]

mod citations;
mod confinement;
mod failpoints;
mod licence;
mod packages;
mod rust;
mod sources;
mod telemetry;

use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate stands in the root folder")
        .to_path_buf()
}

/// Fails with all complaints at once.
#[track_caller]
fn report(rule: &str, complaints: &[String]) {
    assert!(
        complaints.is_empty(),
        "{rule}\n  {}",
        complaints.join("\n  ")
    );
}
