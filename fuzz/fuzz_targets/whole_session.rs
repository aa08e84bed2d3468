#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftd::simulation::eat(data));
