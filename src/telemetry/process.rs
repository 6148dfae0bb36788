//! What this process takes of its machine, as Linux counts it.

/// Processor time and memory of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// User and system time since its start.
    pub cpu_seconds: f64,
    /// Memory that is resident.
    pub resident_bytes: u64,
}

impl Process {
    /// Of this process; zeros where `/proc` is not to be read.
    #[must_use]
    pub fn look() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks = rustix::param::clock_ticks_per_second();
        Self::parse(&stat, ticks, rustix::param::page_size()).unwrap_or_default()
    }

    /// From the text of `/proc/PID/stat` (`proc_pid_stat(5)`: utime and stime are fields 14 and 15,
    /// rss is field 24). The second field, a name in parentheses, may hold anything.
    fn parse(stat: &str, ticks_a_second: u64, page_bytes: usize) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let mut next = || fields.next()?.parse::<u64>().ok();
        let ticks = next()? + next()?;
        let pages: u64 = fields.nth(8)?.parse().ok()?;
        #[expect(clippy::cast_precision_loss, reason = "exact for the next million years")]
        let cpu_seconds = ticks as f64 / ticks_a_second as f64;
        Some(Self { cpu_seconds, resident_bytes: pages * u64::try_from(page_bytes).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 150 0 0 20 0 1 0 5 10000000 300 184467";
        let expected = Process { cpu_seconds: 4.0, resident_bytes: 300 * 4096 };
        assert_eq!(Process::parse(stat, 100, 4096), Some(expected));
        assert_eq!(Process::parse("", 100, 4096), None);
    }

    #[test]
    fn this_process_takes_memory() {
        assert!(Process::look().resident_bytes > 0);
    }
}
