//! Configuration: in files, in the environment, on the command line.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use hydrant::config::{Sources, load};

use super::Input;

/// Whatever is wrong is said on a line of its own.
pub fn config(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choice = input.byte() % 4;
    let required = "delivery_stream_name=fuzz".to_owned();
    let mut sources = Sources { set: vec![required], ..Sources::default() };
    let text = input.0;
    let lines = || text.split(|byte| *byte == b'\n').take(50);
    let mut written = None;
    match choice {
        0 | 1 => {
            let ending = if choice == 0 { "toml" } else { "yaml" };
            let file = std::env::temp_dir().join(format!("hydrant-fuzz-{}.{ending}", std::process::id()));
            fs::write(&file, text).unwrap();
            sources.file = Some(file.clone());
            written = Some(file);
        }
        2 => {
            sources.environment = lines()
                .filter_map(|line| {
                    let at = line.iter().position(|byte| *byte == b'=')?;
                    let name = [b"HYDRANT_", &line[..at]].concat();
                    // The file that it names would be read.
                    let pair = (name != b"HYDRANT_CONFIG").then_some((name, line[at + 1..].to_vec()))?;
                    Some((OsString::from_vec(pair.0), OsString::from_vec(pair.1)))
                })
                .collect();
        }
        _ => sources.set.extend(lines().filter_map(|line| String::from_utf8(line.to_vec()).ok())),
    }
    match load(&sources) {
        Ok(loaded) => assert!(!loaded.values.is_empty()),
        Err(problems) => {
            assert!(problems.iter().next().is_some());
            for problem in problems.iter().map(ToString::to_string) {
                assert!(!problem.is_empty() && !problem.contains('\n'), "{problem:?}");
            }
        }
    }
    written.into_iter().for_each(|file| fs::remove_file(file).unwrap());
}
