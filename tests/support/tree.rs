//! The project's own files, for tests that read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file of `src`.
pub struct Source {
    /// Below the project's root.
    pub path: String,
    pub text: String,
    /// Its lines with their numbers, without comments and test code.
    pub product: Vec<(usize, String)>,
}

/// The files of `src`, each without its test code, and without files that are test code.
pub fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut test_files = BTreeSet::new();
    for path in files_below(&["src"], &["rs"]) {
        let text = read(&path);
        let mut tests = Vec::new();
        let product = product(&text, &mut tests);
        let directory = Path::new(&path).parent().unwrap();
        test_files.extend(tests.iter().map(|file| directory.join(file).display().to_string()));
        sources.push(Source { path, text, product });
    }
    // `mod tests;` is a file of that name, or a folder of it.
    let is_test = |path: &str| {
        test_files.iter().any(|file| {
            let folder = file.strip_suffix(".rs").unwrap_or(file);
            path == file || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        })
    };
    sources.retain(|source| !is_test(&source.path));
    sources
}

/// The lines of `text` with their numbers, without comments and test code; the modules that it
/// declares for tests go to `tests`.
pub fn product(text: &str, tests: &mut Vec<String>) -> Vec<(usize, String)> {
    let mut product = Vec::new();
    let mut lines = numbered(text);
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let item = lines.next().map(|(_, item)| item).unwrap_or_default();
            if let Some(module) = item.trim().strip_suffix(';').and_then(|item| item.rsplit(' ').next()) {
                tests.push(format!("{module}.rs"));
            } else if item.ends_with('{') {
                // To the brace that closes it, which rustfmt puts below the attribute.
                let indent = &line[..line.len() - line.trim_start().len()];
                lines.by_ref().find(|(_, line)| line.strip_prefix(indent).is_some_and(|rest| rest == "}"));
            }
        } else if !line.trim_start().starts_with("//") {
            product.push((number, line.to_owned()));
        }
    }
    product
}

/// The names of all tests, functions with an attribute that ends in `test`, perhaps with arguments.
/// Each has the numbers of the requirements that the comment above it names: `// R-B1, R-L1`.
pub fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut tests = BTreeMap::<String, BTreeSet<String>>::new();
    for path in files_below(&["src", "tests"], &["rs"]) {
        let (mut is_test, mut numbers) = (false, BTreeSet::new());
        for line in read(&path).lines().map(str::trim) {
            let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            if let Some((name, _)) = function.and_then(|function| function.split_once('(')) {
                let numbers = std::mem::take(&mut numbers);
                if std::mem::take(&mut is_test) {
                    tests.entry(name.to_owned()).or_default().extend(numbers);
                }
            } else if line.starts_with("#[") {
                is_test |= line.contains("test]") || line.contains("test(");
            } else if let Some(named) = line.strip_prefix("// R-") {
                numbers.extend(format!("R-{named}").split(", ").map(str::to_owned));
            }
        }
    }
    tests
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path} could not be read: {error}"))
}

/// The lines with their numbers from 1.
pub fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Folders that hold what was not written here, wherever they are.
const FOREIGN: [&str; 4] = ["target", ".git", "node_modules", "cdk.out"];

/// The files below `paths` with one of `endings`, as paths below the root, ascending.
pub fn files_below(paths: &[&str], endings: &[&str]) -> Vec<String> {
    let mut pending: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        let whole = root().join(&path);
        if whole.is_dir() {
            let names = fs::read_dir(whole).unwrap().map(|entry| entry.unwrap().file_name());
            let own = names.filter(|name| !FOREIGN.iter().any(|foreign| name == *foreign));
            pending.extend(own.map(|name| path.join(name)));
        } else if endings.iter().any(|ending| path.extension().or(path.file_name()).unwrap() == *ending) {
            files.push(path.display().to_string());
        }
    }
    files.sort();
    files
}

/// The cells of a row of a Markdown table.
pub fn cells(line: &str) -> Option<Vec<String>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(|cell| cell.trim().to_owned()).collect())
}

pub fn backticked(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Fails with every fault on a line of its own.
pub fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
