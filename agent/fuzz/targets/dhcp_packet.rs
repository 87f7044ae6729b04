#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pureboot_agent_fuzz::dhcp_packet::check(data));
