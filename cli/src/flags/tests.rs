//! What Go's `flag` package does, and we do too.

use std::time::Duration;

use super::*;

const SET: FlagSet = FlagSet {
    name: "trial",
    groups: &[
        &[
            Flag::text("name", "A name").default("none"),
            Flag::switch("deep", "Go deep"),
            Flag::int("ttl", "Seconds").default("600"),
        ],
        &[
            Flag::list("selector", "A selector"),
            Flag::new("timeout", Kind::Duration, "How long").default("5s"),
            Flag::new("audience", Kind::Commas, "Who"),
            Flag::new("banned", Kind::Either, "Which"),
            Flag::new("output", Kind::Output, "How"),
            Flag::new("format", Kind::Output, "deprecated"),
            Flag::switch("allowUnknownConfig", "Ours").own(),
        ],
    ],
};

fn parse(args: &[&str]) -> Result<Values, FlagError> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    SET.parse(&args)
}

fn refusal(args: &[&str]) -> String {
    parse(args).unwrap_err().to_string()
}

#[test]
fn one_dash_two_dashes_and_an_equals_sign_are_the_same() {
    for args in [
        &["-name", "a"][..],
        &["--name", "a"],
        &["-name=a"],
        &["--name=a"],
    ] {
        assert_eq!(parse(args).unwrap().text("name"), "a");
    }
    assert_eq!(parse(&["-name=a=b"]).unwrap().text("name"), "a=b");
    assert_eq!(parse(&["-name="]).unwrap().text("name"), "");
    assert_eq!(parse(&["-name", "-deep"]).unwrap().text("name"), "-deep");
}

#[test]
fn a_switch_takes_a_value_only_after_an_equals_sign() {
    assert!(parse(&["-deep"]).unwrap().switch("deep"));
    assert!(!parse(&["-deep=f"]).unwrap().switch("deep"));
    let values = parse(&["-deep", "false", "-ttl", "1"]).unwrap();
    assert!(values.switch("deep"));
    assert_eq!(values.int("ttl"), 600, "flags end at the first other word");
    assert_eq!(
        refusal(&["-deep=yes"]),
        "invalid boolean value \"yes\" for -deep: parse error"
    );
}

#[test]
fn flags_end_at_two_dashes_and_at_a_lone_dash() {
    for end in ["--", "-", "word", ""] {
        assert_eq!(parse(&[end, "-name", "a"]).unwrap().text("name"), "none");
    }
}

#[test]
fn refuses_in_the_words_of_go() {
    for (args, text) in [
        (&["-bogus"][..], "flag provided but not defined: -bogus"),
        (&["--bogus=1"], "flag provided but not defined: -bogus"),
        (&["-name"], "flag needs an argument: -name"),
        (&["---name"], "bad flag syntax: ---name"),
        (&["-=a"], "bad flag syntax: -=a"),
        (
            &["-ttl", "x"],
            "invalid value \"x\" for flag -ttl: parse error",
        ),
        (
            &["-ttl", "9223372036854775808"],
            "invalid value \"9223372036854775808\" for flag -ttl: value out of range",
        ),
        (
            &["-timeout", "bogus"],
            "invalid value \"bogus\" for flag -timeout: time: invalid duration \"bogus\"",
        ),
        (
            &["-output", "yaml"],
            "invalid value \"yaml\" for flag -output: bad formatter flag: unknown format option: \"yaml\"",
        ),
        (
            &["-output", "json", "-format", "pretty"],
            "invalid value \"pretty\" for flag -format: the output format has already been set to \"json\"",
        ),
        (&["-h"], "flag: help requested"),
        (&["-help"], "flag: help requested"),
    ] {
        assert_eq!(refusal(args), text);
    }
}

#[test]
fn reads_integers_as_go_does() {
    for (text, number) in [
        ("0", 0),
        ("-1", -1),
        ("+7", 7),
        ("0x1F", 31),
        ("0b101", 5),
        ("0o17", 15),
        ("017", 15),
        ("0x_ff", 255),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(go_int(text), Ok(number), "{text}");
    }
    for text in ["", "-", "0x", "1_000", "0x1__2", "08", "1.5", " 1"] {
        assert!(go_int(text).is_err(), "{text:?}");
    }
}

#[test]
fn reads_lengths_of_time_as_go_does() {
    for (text, millis) in [
        ("5s", 5_000),
        ("1m30s", 90_000),
        ("1.5h", 5_400_000),
        (".5s", 500),
        ("0", 0),
    ] {
        assert_eq!(
            go_duration(text),
            Some(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in [
        "",
        "5",
        "s",
        ".s",
        "1.2.3s",
        "5 s",
        "-5s",
        "1w",
        "99999999h",
    ] {
        assert_eq!(go_duration(text), None, "{text:?}");
    }
}

#[test]
fn spans_of_time_are_read_as_go_reads_them() {
    for (text, nanos) in [
        ("-5s", Some(-5_000_000_000)),
        ("1m30s", Some(90_000_000_000)),
        ("720h0m0s", Some(2_592_000_000_000_000)),
        ("0", Some(0)),
        ("-", None),
        ("-+5s", None),
        ("--5s", None),
        ("bogus", None),
        ("", None),
    ] {
        assert_eq!(go_span(text), nanos, "{text:?}");
    }
}

#[test]
fn repeated_flags_gather_or_replace_by_kind() {
    let values = parse(&[
        "-selector",
        "a:1",
        "-selector=b:2",
        "-name",
        "x",
        "-name",
        "y",
        "-audience",
        "p,q",
        "-audience",
        "r,s",
    ])
    .unwrap();
    assert_eq!(values.list("selector"), ["a:1", "b:2"]);
    assert_eq!(values.text("name"), "y");
    assert_eq!(values.commas("audience"), ["r", "s"]);
    assert!(parse(&[]).unwrap().commas("audience").is_empty());
}

#[test]
fn a_word_that_is_neither_true_nor_false_asks_for_both() {
    assert_eq!(
        parse(&["-banned", "true"]).unwrap().either("banned"),
        Some(true)
    );
    assert_eq!(
        parse(&["-banned", "false"]).unwrap().either("banned"),
        Some(false)
    );
    assert_eq!(parse(&["-banned", "bogus"]).unwrap().either("banned"), None);
}

#[test]
fn the_usage_text_is_sorted_and_leaves_out_our_own_flags() {
    let usage = SET.usage();
    assert!(usage.starts_with("Usage of trial:\n  -audience value\n    \tWho\n  -banned value\n"));
    assert!(usage.contains("  -deep\n    \tGo deep\n"));
    assert!(usage.contains("  -name string\n    \tA name (default \"none\")\n"));
    assert!(usage.contains("  -timeout value\n    \tHow long (default 5s)\n"));
    assert!(usage.ends_with("  -ttl int\n    \tSeconds (default 600)\n"));
    assert!(!usage.contains("allowUnknownConfig"));
    assert!(
        parse(&["-allowUnknownConfig"])
            .unwrap()
            .switch("allowUnknownConfig")
    );
}

proptest::proptest! {
    #[test]
    fn no_command_line_is_a_panic(args in proptest::collection::vec("(--?)?[a-zA-Z0-9=:.µ_-]{0,12}", 0..6)) {
        let _ = SET.parse(&args);
    }

    #[test]
    fn no_text_is_a_panic_for_a_number_or_a_length_of_time(text in ".{0,24}") {
        let _ = go_int(&text);
        let _ = go_duration(&text);
        let _ = go_span(&text);
    }

    #[test]
    fn every_integer_is_read_back(number: i64) {
        proptest::prop_assert_eq!(go_int(&number.to_string()), Ok(number));
    }
}
