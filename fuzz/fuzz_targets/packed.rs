#![no_main]

#[allow(dead_code, reason = "each fuzzer runs one law")]
#[path = "../laws.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| laws::packed(data));
