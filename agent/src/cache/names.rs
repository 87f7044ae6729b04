//! The text of `names.log`: what a lost index is rebuilt from, besides the objects themselves.
//!
//! Each line is `+ <sha256> <category/path>` or `- <category/path>`; later lines win. The last line may be torn.

use std::collections::BTreeMap;

use pureboot_protocol::ContentKey;

use super::ContentHash;

/// The line that says what `key` stands for from now on.
pub(super) fn emit(key: &ContentKey, hash: Option<ContentHash>) -> String {
    match hash {
        Some(hash) => format!("+ {hash} {key}\n"),
        None => format!("- {key}\n"),
    }
}

/// What the names stand for in the end. A line that is torn or foreign says nothing.
pub(super) fn parse(text: &str) -> BTreeMap<ContentKey, ContentHash> {
    let mut names = BTreeMap::new();
    for line in text.split_inclusive('\n') {
        let Some(line) = line.strip_suffix('\n') else { break };
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["+", hash, key] => {
                if let (Ok(hash), Ok(key)) = (hash.parse(), key.parse()) {
                    names.insert(key, hash);
                }
            }
            ["-", key] => {
                if let Ok(key) = key.parse() {
                    names.remove::<ContentKey>(&key);
                }
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> ContentKey {
        format!("images/{number}").parse().unwrap()
    }

    proptest! {
        #[test]
        fn d18_the_log_says_what_the_names_stand_for(
            steps in proptest::collection::vec((0u8..4, proptest::option::of(0u8..4)), 0..20),
            torn_len in 0usize..80,
        ) {
            let mut expected = BTreeMap::new();
            let mut log = String::new();
            for (number, byte) in steps {
                let hash = byte.map(|byte| ContentHash::from_digest([byte; 32]));
                log += &emit(&key(number), hash);
                match hash {
                    Some(hash) => expected.insert(key(number), hash),
                    None => expected.remove(&key(number)),
                };
            }
            let next = emit(&key(9), Some(ContentHash::from_digest([9; 32])));
            log += &next[..torn_len.min(next.len() - 1)];
            prop_assert_eq!(parse(&log), expected);
        }

        #[test]
        fn d18_any_text_is_read_without_harm(text in "([+-] [0-9a-f]{0,64} ?[a-z/.]{0,12}\n?|\\PC{0,9}\n){0,6}") {
            parse(&text);
        }
    }
}
