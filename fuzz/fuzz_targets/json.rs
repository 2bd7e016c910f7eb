#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millstream_fuzz::json::check(data));
