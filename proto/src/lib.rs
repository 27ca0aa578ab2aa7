//! The messages and services that cross a process boundary or lie in the store: generated types only.
//!
//! The `.proto` text in `protos/` is ours. Names and numbers are those of the SPIFFE Workload API and
//! of SPIRE's APIs, so that their programs understand ours. The Rust under `src/generated/` is
//! committed, so that building needs no generator; the test `generated` keeps it true to the text,
//! and rewrites it when told:
//!
//! ```text
//! UPDATE_GENERATED=1 cargo test -p tests --test generated
//! ```
//!
//! Well-known types become their Rust counterparts: `Empty` is `()`, `BoolValue` is `bool`,
//! `StringValue` is `String`, `Struct` is `prost_types::Struct`. Messages that carry a key or a token
//! have a `Debug` written by hand, in `redacted`.
#![allow(
    clippy::allow_attributes,
    reason = "nobody can say which lints the generator's next version trips over, so `expect` does not fit"
)]

mod erased;
mod redacted;

/// Declares the module of one generated file.
macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            clippy::all,
            clippy::pedantic,
            clippy::nursery,
            clippy::restriction,
            missing_debug_implementations,
            unused_qualifications,
            single_use_lifetimes,
            elided_lifetimes_in_paths,
            reason = "generated code"
        )]
        pub mod $name {
            include!(concat!("generated/", $file, ".rs"));
        }
    };
}

/// The server's APIs, SPIRE's and ours, and what they import, as a `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/server.bin");

/// What is served on an agent's admin socket, SPIRE's services and ours, as a `FileDescriptorSet`.
pub const AGENT_DESCRIPTORS: &[u8] = include_bytes!("generated/agent.bin");

/// The Workload API and what it imports, as a `FileDescriptorSet`.
pub const WORKLOAD_DESCRIPTORS: &[u8] = include_bytes!("generated/workload.bin");

generated!(
    /// The SPIFFE Workload API.
    workload,
    "workload"
);

generated!(
    /// The records of Signet's store.
    records,
    "signet.records.v1"
);

generated!(
    /// The part of the Container Storage Interface that a kubelet calls.
    csi,
    "csi.v1"
);

generated!(
    /// How a plugin makes itself known to a kubelet.
    pluginregistration,
    "pluginregistration"
);

generated!(
    /// A pod, as the kubelet's Pods API hands it over.
    pod,
    "kubernetes.core.v1"
);

generated!(
    /// What a kubelet tells of the pods on its node.
    pods,
    "v1alpha1"
);

/// Signet's own services.
pub mod signet {
    generated!(
        /// What SPIRE's server has no call for.
        server,
        "signet.server.v1"
    );
    generated!(
        /// What a server pushes to its agents.
        agent,
        "signet.agent.v1"
    );
    generated!(
        /// What runs beside an agent tells it.
        node,
        "signet.node.v1"
    );
}

/// SPIRE's APIs.
pub mod spire {
    generated!(
        /// The nouns that all of SPIRE's APIs share.
        types,
        "spire.api.types"
    );

    /// The APIs on the admin socket of SPIRE's agent, each in its version 1.
    pub mod agent {
        generated!(
            /// A look into a running agent.
            debug,
            "spire.agent.debug.v1"
        );
        generated!(
            /// Identities of others, for those who may act for them.
            delegatedidentity,
            "spire.api.agent.delegatedidentity.v1"
        );
        generated!(
            /// The log level.
            logger,
            "spire.api.agent.logger.v1"
        );
    }

    /// The APIs of SPIRE's server, each in its version 1.
    pub mod server {
        generated!(
            /// Attested agents.
            agent,
            "spire.api.server.agent.v1"
        );
        generated!(
            /// The own bundle and those of other trust domains.
            bundle,
            "spire.api.server.bundle.v1"
        );
        generated!(
            /// A look into a running server.
            debug,
            "spire.api.server.debug.v1"
        );
        generated!(
            /// Registration entries.
            entry,
            "spire.api.server.entry.v1"
        );
        generated!(
            /// Signing authorities and their forced rotation.
            localauthority,
            "spire.api.server.localauthority.v1"
        );
        generated!(
            /// The log level.
            logger,
            "spire.api.server.logger.v1"
        );
        generated!(
            /// Issuance of SVIDs.
            svid,
            "spire.api.server.svid.v1"
        );
        generated!(
            /// Federation relationships.
            trustdomain,
            "spire.api.server.trustdomain.v1"
        );
    }
}
