#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hydrant_fuzz::syslog(bytes));
