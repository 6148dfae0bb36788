//! What can be wrong with a configuration.

use std::fmt;

/// One thing that is wrong. The text is one line that names the layer, the key, what it is and
/// what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file could not be read.
    #[error("{path}: cannot read the configuration file: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system answered.
        reason: String,
    },
    /// The file is not TOML, or not YAML.
    #[error("{path}:{line}:{column}: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
        /// What the parser found there.
        reason: String,
    },
    /// An argument of `--set`, or a variable, from which no key and value can be taken.
    #[error("{from}: must be {expected}")]
    Assignment {
        /// The argument or variable.
        from: String,
        /// What it must be.
        expected: &'static str,
    },
    /// No such key.
    #[error("{from}: unknown key `{key}`; {}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// Where it was set.
        from: String,
        /// The key.
        key: String,
        /// The known key most like it, if any is.
        nearest: Option<String>,
    },
    /// A value where a table of keys is needed.
    #[error("{from}: `{key}` is {value}, but must be a table of keys")]
    NotATable {
        /// Where it was set.
        from: String,
        /// The table.
        key: String,
        /// The value.
        value: String,
    },
    /// A value of the wrong kind or out of range.
    #[error("{from}: `{key}` is {value}, but must be {expected}")]
    Value {
        /// Where it was set.
        from: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The values that are allowed.
        expected: String,
    },
    /// A key under both its spellings in one layer, where neither is the later one.
    #[error("{from}: `{key}` and its alias `{alias}` are both set, keep one of them")]
    BothSpellings {
        /// Where they were set.
        from: String,
        /// The key.
        key: &'static str,
        /// Its other spelling.
        alias: &'static str,
    },
    /// A key that has no default and was not set.
    #[error(
        "`{key}` is required: set it in the file, in the environment as {variable}, or with --set {key}=…"
    )]
    Missing {
        /// The key.
        key: String,
        /// The environment variable for it.
        variable: String,
    },
    /// Values that are right one by one and wrong together.
    #[error("{0}")]
    Conflict(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "`hydrant schema` lists the keys".to_owned(),
        |nearest| format!("did you mean `{nearest}`?"),
    )
}

/// Everything that is wrong with a configuration; never empty. Its text is one line a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// The problems in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
