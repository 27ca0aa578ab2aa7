//! The routes that command lines take.

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split(' ')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn outcome(called: &str, line: &str) -> (String, u8) {
    let args = words(line);
    let (program, rest) = Program::choose(called, &args);
    match program.route(rest) {
        Route::Run(command, args) => (format!("{} <{}>", command.path, args.join(" ")), 0),
        Route::Version => ("version".to_owned(), 0),
        Route::Help { text, code } => (text, code),
    }
}

#[test]
fn the_same_command_has_three_spellings() {
    for (called, line) in [
        ("spire-server", "entry show -entryID x"),
        ("signet", "server entry show -entryID x"),
        ("anything", "server entry show -entryID x"),
    ] {
        assert_eq!(outcome(called, line).0, "server entry show <-entryID x>");
    }
    assert_eq!(outcome("spire-agent", "api fetch").0, "agent api fetch <>");
    assert_eq!(
        outcome("spire-agent", "api fetch jwt -audience a").0,
        "agent api fetch jwt <-audience a>"
    );
    assert_eq!(
        outcome("spire-agent", "api fetch bogus").0,
        "agent api fetch <bogus>"
    );
}

#[test]
fn an_unknown_or_missing_command_lists_the_commands_and_ends_with_127() {
    for line in [
        "",
        "wit mint -spiffeID spiffe://example.org/m1",
        "entryx",
        "--",
    ] {
        let (text, code) = outcome("spire-server", line);
        assert_eq!(code, 127, "{line}");
        assert!(text.starts_with(
            "Usage: spire-server [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n    agent                \n"
        ), "{text}");
        assert!(text.contains("    healthcheck          Determines server health status\n"));
        assert!(text.ends_with(
            "    validate             Validates a SPIRE server configuration file\n    x509                 \n\n"
        ));
    }
    assert_eq!(outcome("signet", "").1, 127);
    assert_eq!(outcome("signet", "server").1, 127);
    assert_eq!(outcome("signet", "bogus").1, 127);
}

#[test]
fn a_group_without_its_command_explains_itself_and_fails() {
    let help = "This command is accessed by using one of the subcommands below.\n\nSubcommands:\n    generate    Generates a join token\n";
    let (text, code) = outcome("signet", "server token");
    assert_eq!((text.as_str(), code), (help, 1));
    // SPIRE's programs print the usages of all commands of the group first.
    let (text, code) = outcome("spire-server", "token");
    assert_eq!(code, 1);
    assert!(text.starts_with("Usage of generate:\n"), "{text}");
    assert!(text.ends_with(help), "{text}");
    assert_eq!(outcome("spire-server", "token bogus").1, 1);
    assert_eq!(outcome("spire-server", "token -h").1, 0);
}

#[test]
fn help_is_asked_for_anywhere_and_succeeds() {
    for line in [
        "token generate -h",
        "-h token generate",
        "token generate -spiffeID -help",
        "token --help generate",
    ] {
        let (text, code) = outcome("spire-server", line);
        assert_eq!(code, 0, "{line}");
        if line != "token --help generate" {
            assert!(
                text.starts_with("Usage of generate:\n  -instance string\n"),
                "{text}"
            );
            assert!(text.ends_with("\nflag: help requested\n"), "{text}");
        }
    }
    let (text, code) = outcome("spire-agent", "--help");
    assert!(text.starts_with("Usage: spire-agent ") && code == 0);
    let (text, _) = outcome("spire-agent", "api fetch -h");
    assert!(text.ends_with("\n\nSubcommands:\n    jwt     Fetches a JWT SVID from the Workload API\n    x509    Fetches X509 SVIDs from the Workload API\n"), "{text}");
}

#[test]
fn a_flag_before_the_command_is_refused() {
    let (text, code) = outcome("spire-server", "-output json entry count");
    assert_eq!(code, 127, "the first word is `json`: {text}");
    let (text, code) = outcome("spire-server", "-output=json entry count");
    assert_eq!(code, 1);
    assert!(text.starts_with("Invalid flags before the subcommand."));
}

#[test]
fn the_version_is_asked_for_only_before_a_command() {
    for line in ["-version", "--version", "-v", "--version entry count"] {
        assert_eq!(outcome("spire-server", line).0, "version");
        assert_eq!(outcome("signet", line).0, "version");
    }
    assert_eq!(
        outcome("spire-server", "run -version").0,
        "server run <-version>"
    );
}
