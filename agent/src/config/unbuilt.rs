//! What SPIRE knows and this agent does not build.

use runtime::config::{Body, Problems};

use super::raw;

/// Refuses each such setting by name.
pub(super) fn refuse(agent: &raw::Agent, problems: &mut Problems) {
    for (path, body, what) in sections(agent) {
        problems.add_if(body.is_some(), path, what);
    }
    let experimental = &agent.experimental;
    for (path, asked, what) in [
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

fn sections(agent: &raw::Agent) -> [(&'static str, &Option<Body>, &'static str); 4] {
    let experimental = &agent.experimental;
    [
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
