//! Which licences may be linked into the program.

/// Licences that ask for a notice at most, or (MPL) for changes to their own files, which we make none.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "MPL-2.0+",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether an SPDX expression leaves us a choice of allowed licences.
pub(crate) fn allows(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        // Before SPDX had expressions, Cargo took a slash for OR.
        .replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    any(&mut rest).unwrap_or(false) && rest.is_empty()
}

// The three parts of the grammar, each with nothing for an expression that is none.

fn any(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = all(rest)?;
    while eat(rest, "OR") {
        allowed |= all(rest)?;
    }
    Some(allowed)
}

fn all(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(rest)?;
    while eat(rest, "AND") {
        allowed &= one(rest)?;
    }
    Some(allowed)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    if eat(rest, "(") {
        let allowed = any(rest)?;
        return eat(rest, ")").then_some(allowed);
    }
    let name = next(rest)?;
    if !eat(rest, "WITH") {
        return Some(ALLOWED.contains(&name));
    }
    let exception = next(rest)?;
    Some(ALLOWED.contains(&format!("{name} WITH {exception}").as_str()))
}

fn next<'a>(rest: &mut &[&'a str]) -> Option<&'a str> {
    let (&first, tail) = rest.split_first()?;
    *rest = tail;
    Some(first)
}

fn eat(rest: &mut &[&str], token: &str) -> bool {
    match rest.split_first() {
        Some((&first, tail)) if first == token => {
            *rest = tail;
            true
        }
        _ => false,
    }
}

#[test]
fn a_choice_of_licences_needs_one_that_is_allowed_and_a_sum_needs_all() {
    for allowed in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(GPL-3.0 OR MIT) AND ISC",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(allows(allowed), "{allowed}");
    }
    for refused in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "MIT OR",
        "(MIT",
        "MIT)",
        "MIT WITH Classpath-exception-2.0",
    ] {
        assert!(!allows(refused), "{refused}");
    }
}
