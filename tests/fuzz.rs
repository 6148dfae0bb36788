//! Everything that libFuzzer has kept, and some thousands of changes to it, through the same checks as in `fuzz/`:
//! what the fuzzers need and CI has not is time alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "says what was tried, and what broke it")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use fastrand::Rng;

#[path = "../fuzz/src/lib.rs"]
mod checks;

/// Changes to each target's corpus. `FUZZ_CHANGES` tries more.
const CHANGES: usize = 2_000;
/// Longest input that changes make.
const MAX_BYTES: usize = 8 * 1024;

type Check = fn(&[u8]);

/// Runs `check` over the corpus of `name`, and over changes to it.
fn run(name: &str, check: Check) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut corpus: Vec<Vec<u8>> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(!corpus.is_empty(), "{} is empty", directory.display());
    // The same order everywhere.
    corpus.sort();
    corpus.iter().for_each(|bytes| held(check, bytes));
    held(check, b"");
    let changes = std::env::var("FUZZ_CHANGES").map_or(CHANGES, |changes| changes.parse().unwrap());
    let mut rng = Rng::with_seed(0x5eed);
    for _ in 0..changes {
        let mut bytes = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.usize(1..=4) {
            change(&mut bytes, &corpus, &mut rng);
        }
        bytes.truncate(MAX_BYTES);
        held(check, &bytes);
    }
    println!("{name}: {} in the corpus, {changes} changes", corpus.len());
}

/// Runs `check`, and says what it was that broke it.
fn held(check: Check, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(bytes))) {
        eprintln!("broken by b\"{}\"", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.usize(..=bytes.len());
    let end = rng.usize(at..=bytes.len()).min(at + 64);
    match rng.u8(..7) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.u8(..8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.u8(..)),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        4 => {
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..=other.len());
            bytes.splice(at..at, other[from..].iter().take(256).copied());
        }
        5 => bytes.insert(at, *rng.choice(b"\n\r\0 0179\"\\{}[]:,|~\xff\x80\xc0\xdd").unwrap()),
        _ => bytes.truncate(at),
    }
}

/// A test a target, so that they share the machine.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), checks::$name);
            }
        )*

        #[test]
        fn every_target_has_a_corpus_a_binary_and_a_test() {
            let named = [$(stringify!($name)),*].map(str::to_owned);
            let names = |folder: &str| {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
                let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
                let mut names: Vec<_> =
                    files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
                names.sort();
                names
            };
            assert_eq!(names("corpus"), named);
            assert_eq!(names("fuzz_targets"), named);
        }
    };
}

targets! {
    answer, api, config, firehose, forward, frames, http, letters, lines, signature, spool, syslog, watermark,
}
