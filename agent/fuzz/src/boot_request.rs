//! A machine's question about its script: `{mac}?{query}`.

use pureboot_agent::boot::request::{
    PARAMETERS_MAX, QUERY_LEN_MAX, parse_path, parse_query, session,
};

/// The two spellings of a question are read alike, and every refusal says why.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mac, query) = text.split_once('?').unwrap_or((&text, ""));
    let by_path = parse_path(mac, query);
    if let Err(error) = &by_path {
        assert!(!error.to_string().is_empty());
    }
    if query.len() > QUERY_LEN_MAX
        || query.split('&').filter(|pair| !pair.is_empty()).count() > PARAMETERS_MAX
    {
        assert!(by_path.is_err() && session(query).is_none());
    }
    let by_query = parse_query(query);
    if let (Ok(by_path), Ok(by_query)) = (by_path, by_query) {
        assert_eq!(by_path.mac == by_query.mac, by_path == by_query, "{text:?}");
    }
}
