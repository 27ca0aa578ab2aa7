//! The commands for the nodes of a Kubernetes cluster. SPIRE has none; the flags of its storage driver
//! have that program's names and defaults.

use k8s::csi::{DEFAULT_KUBELET_DIR, DEFAULT_PLUGIN, DEFAULT_SOCKET};

use super::{Action, K8sAction, PLAIN};
use crate::command::{Command, Manners};
use crate::flags::{Flag, FlagSet};

const SOCKET: Flag =
    Flag::text("csi-socket-path", "Path to the driver's socket").default(DEFAULT_SOCKET);

pub(super) static COMMANDS: &[Command] = &[
    Command {
        path: "k8s csi",
        synopsis: "Runs the storage driver that shows the agent's sockets to pods",
        flags: FlagSet {
            name: "csi",
            groups: &[&[
                SOCKET,
                Flag::text(
                    "agent-admin-socket",
                    "Path to the agent's admin socket, to tell it of pods. If not set, no agent is told",
                ),
                Flag::switch(
                    "external-registrar",
                    "Leave it to a sidecar to register the driver with the kubelet",
                ),
                Flag::text(
                    "kubelet-dir",
                    "The kubelet's directory; volumes are below its pods",
                )
                .default(DEFAULT_KUBELET_DIR),
                Flag::text(
                    "kubelet-registration-path",
                    "Path to the driver's socket as the kubelet sees it. If not set, plugins/<plugin name>/csi.sock in the kubelet's directory",
                ),
                Flag::text("logFormat", "'text' or 'json'"),
                Flag::text("logLevel", "'debug', 'info', 'warn', or 'error'"),
                Flag::text(
                    "node-id",
                    "Name of the node. If not set, it is taken from the environment, see -node-id-env",
                ),
                Flag::text(
                    "node-id-env",
                    "Variable of the environment that has the name of the node",
                )
                .default("MY_NODE_NAME"),
                Flag::text("plugin-name", "Name of the driver").default(DEFAULT_PLUGIN),
                Flag::text(
                    "registration-dir",
                    "Directory that the kubelet watches for drivers. If not set, plugins_registry in the kubelet's directory",
                ),
                Flag::switch("version", "Print the version and exit"),
                Flag::text(
                    "workload-api-socket-dir",
                    "Path to the directory of the Workload API socket",
                ),
            ]],
        },
        manners: PLAIN,
        action: Action::K8s(K8sAction::Csi),
    },
    Command {
        path: "k8s healthcheck",
        synopsis: "Determines whether the storage driver answers",
        flags: FlagSet {
            name: "healthcheck",
            groups: &[&[SOCKET]],
        },
        manners: Manners {
            failure: "Storage driver is unhealthy: ",
            ..PLAIN
        },
        action: Action::K8s(K8sAction::Healthcheck),
    },
];
