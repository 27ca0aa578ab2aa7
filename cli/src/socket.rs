//! Which Unix socket a command talks to: `-socketPath`, `-instance`, or the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::failure::Failure;
use crate::flags::Values;

/// The environment, as `main` read it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(crate) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// Where a kind of socket is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    pub(crate) default: &'static str,
    /// The variable with the path.
    variable: &'static str,
    /// The variable with a path in which `%i` stands for the instance.
    template: &'static str,
    /// The refusal of `-instance` without the template, before and after the variable's name.
    no_template: (&'static str, &'static str),
}

/// The server's API socket.
pub(crate) const SERVER: Socket = Socket {
    default: "/tmp/spire-server/private/api.sock",
    variable: "SPIRE_SERVER_PRIVATE_SOCKET",
    template: "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE",
    no_template: ("you must define ", " to use the instance flag"),
};

/// The agent's Workload API socket.
pub(crate) const AGENT: Socket = Socket {
    default: "/tmp/spire-agent/public/api.sock",
    variable: "SPIRE_AGENT_PUBLIC_SOCKET",
    template: "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
    no_template: (
        // With SPIRE's space.
        " ",
        " environment variable must be defined when using the instance flag",
    ),
};

impl Socket {
    /// The path that the flags and the environment name, in SPIRE's order of precedence.
    pub(crate) fn path(
        &self,
        values: &Values,
        environment: &Environment,
    ) -> Result<PathBuf, Failure> {
        let instance = values.given("instance");
        let template = environment.get(self.template);
        let instanced = match (instance, template) {
            (None, _) => None,
            (Some(_), None) => {
                let (before, after) = self.no_template;
                return Err(Failure::new(format!("{before}{}{after}", self.template)));
            }
            (Some(_), Some(template)) if !template.contains("%i") => {
                return Err(Failure::new(format!(
                    "failed to find %i in {}",
                    self.template
                )));
            }
            (Some(instance), Some(template)) => Some(template.replace("%i", instance)),
        };
        let flag = values.text("socketPath");
        Ok(PathBuf::from(if flag != self.default {
            flag.to_owned()
        } else if let Some(path) = instanced {
            path
        } else {
            environment
                .get(self.variable)
                .unwrap_or(self.default)
                .to_owned()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flag, FlagSet};

    const FLAGS: FlagSet = FlagSet {
        name: "trial",
        groups: &[&[
            Flag::text("socketPath", "").default(SERVER.default),
            Flag::text("instance", ""),
        ]],
    };

    fn path(args: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        SERVER
            .path(&FLAGS.parse(&args).unwrap(), &Environment::new(environment))
            .map(|path| path.display().to_string())
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_flag_wins_over_the_instance_and_the_environment() {
        let plain = (SERVER.variable, "/env/api.sock");
        let template = (SERVER.template, "/run/%i/api.sock");
        assert_eq!(path(&[], &[]).unwrap(), SERVER.default);
        assert_eq!(path(&[], &[plain]).unwrap(), "/env/api.sock");
        assert_eq!(
            path(&["-instance", "a"], &[plain, template]).unwrap(),
            "/run/a/api.sock"
        );
        assert_eq!(
            path(&["-instance", "a", "-socketPath", "/x"], &[plain, template]).unwrap(),
            "/x"
        );
    }

    #[test]
    fn an_instance_needs_a_template_with_a_place_for_it() {
        assert_eq!(
            path(&["-instance", "a"], &[]).unwrap_err(),
            "you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag"
        );
        assert_eq!(
            path(&["-instance", "a"], &[(SERVER.template, "/run/api.sock")]).unwrap_err(),
            "failed to find %i in SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE"
        );
    }
}
