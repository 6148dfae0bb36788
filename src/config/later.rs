//! Keys and values of the full design that this version does not have.
//!
//! Whoever writes one gets a clear answer instead of "unknown key". A row goes when its feature
//! comes.

use super::problem::Problem;
use super::resolve::Found;

/// A key, and what this version makes of it.
pub(super) struct Row {
    /// Dotted; `*` is the name of a listener.
    pub(super) key: &'static str,
    rule: Rule,
}

enum Rule {
    /// Some values of a known key, by how they begin, ask for what is not there.
    Values(&'static [&'static str], &'static str),
}

/// The keys and values that are still to come.
pub(super) const LATER: &[Row] = &[row(
    "listen.*.protocol",
    Rule::Values(&["forward"], "a protocol is \"lines\", \"frames\", \"syslog\", \"http\" or \"firehose\""),
)];

const fn row(key: &'static str, rule: Rule) -> Row {
    Row { key, rule }
}

impl Row {
    /// What to say of `found`, a value of this row's key, or none where the value is as good as any
    /// other.
    pub(super) fn judge(&self, found: &Found) -> Option<Problem> {
        let not_yet = |what, instead| Some(Problem::NotYet { from: found.from.clone(), what, instead });
        let key_and_value = || format!("`{}` = {}", found.key, found.shown());
        let text = found.value.as_str();
        match &self.rule {
            Rule::Values(starts, instead) => {
                let matches = |start: &&str| text.is_some_and(|text| text.starts_with(start));
                if starts.iter().any(matches) { not_yet(key_and_value(), instead) } else { None }
            }
        }
    }
}
