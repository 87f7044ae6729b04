#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pureboot_agent_fuzz::http_head::check(data));
