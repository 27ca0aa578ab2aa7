//! What SPIRE knows and this agent does not build.

use runtime::config::{Body, Problems, duration, given};

use super::raw;

/// Refuses each such setting by name.
pub(super) fn refuse(agent: &raw::Agent, problems: &mut Problems) {
    for (path, body, what) in sections(agent) {
        problems.add_if(body.is_some(), path, what);
    }
    let experimental = &agent.experimental;
    for (path, asked, what) in [
        (
            "agent.experimental.require_pq_kem",
            experimental.require_pq_kem == Some(true),
            "demanding a post-quantum key exchange is not built",
        ),
        (
            "agent.experimental.use_sync_authorized_entries",
            experimental.use_sync_authorized_entries == Some(false),
            "this agent always synchronizes by revisions",
        ),
        (
            "agent.experimental.feature_flags",
            !experimental.feature_flags.is_empty(),
            "there are no feature flags",
        ),
    ] {
        problems.add_if(asked, path, what);
    }
    rebootstrap(agent, problems);
    let profiling = [
        &agent.profiling_port,
        &agent.profiling_freq,
        &agent.profiling_names,
    ];
    problems.warn_if(
        agent.profiling_enabled == Some(true) || profiling.iter().any(|value| value.is_some()),
        "`agent.profiling_*` has no effect: there is no profiler",
    );
}

fn sections(agent: &raw::Agent) -> [(&'static str, &Option<Body>, &'static str); 6] {
    let experimental = &agent.experimental;
    [
        (
            "agent.trust_bundle_unix_socket",
            &agent.trust_bundle_unix_socket,
            "fetching the trust bundle from a Unix socket is not built; use `trust_bundle_path`, or `trust_bundle_url` with https",
        ),
        (
            "agent.trust_bundle_spiffe_workload_api",
            &agent.trust_bundle_spiffe_workload_api,
            "fetching the trust bundle from a Workload API is not built; use `trust_bundle_path` or `trust_bundle_url`",
        ),
        (
            "agent.experimental.ratelimit",
            &experimental.ratelimit,
            "rate limits of the Workload API are not built",
        ),
        (
            "agent.experimental.broker",
            &experimental.broker,
            "the SPIFFE Broker API is not built",
        ),
        (
            "agent.experimental.named_pipe_name",
            &experimental.named_pipe_name,
            "named pipes are for Windows; use `socket_path`",
        ),
        (
            "agent.experimental.admin_named_pipe_name",
            &experimental.admin_named_pipe_name,
            "named pipes are for Windows",
        ),
    ]
}

fn rebootstrap(agent: &raw::Agent, problems: &mut Problems) {
    match agent.rebootstrap_mode.as_deref() {
        None | Some("" | "never") => {}
        Some(mode @ ("auto" | "always")) => {
            problems.add(
                "agent.rebootstrap_mode",
                format!("`{mode}` is not built; only `never` is"),
            );
        }
        Some(mode) => problems.add(
            "agent.rebootstrap_mode",
            format!("unknown rebootstrap mode specified: {mode}"),
        ),
    }
    if let Some(delay) = given(agent.rebootstrap_delay.as_deref()) {
        problems.take("agent.rebootstrap_delay", duration::parse(delay));
    }
}
