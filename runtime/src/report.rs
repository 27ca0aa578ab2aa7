//! How an error is told in full.

use std::error::Error;

/// The longest chain that is followed, in case an error names itself as its cause.
const MAX_CAUSES: usize = 32;

/// Tells an error and all its causes in one line: `outer: inner: root`.
///
/// Our own errors tell only their layer. Some libraries repeat the cause in their own text; what
/// already stands at the end is not said twice.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..MAX_CAUSES {
        let Some(cause) = next else { break };
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    #[test]
    fn tells_every_layer_once() {
        let root = Layer {
            text: "disk full",
            source: None,
        };
        let middle = Layer {
            text: "write: disk full",
            source: Some(Box::new(root)),
        };
        let outer = Layer {
            text: "could not save",
            source: Some(Box::new(middle)),
        };
        assert_eq!(chain(&outer), "could not save: write: disk full");
    }
}
