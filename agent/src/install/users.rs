//! A user of the system, written into the files that all systems have. A router has no program for that.

/// The numbers that users of the system have, the highest first.
const NUMBERS: std::ops::RangeInclusive<u32> = 100..=999;

/// The number of `name`, in a line such as `name:x:998:…` of `/etc/passwd` or `/etc/group`.
pub(super) fn number_of(name: &str, lines: &str) -> Option<u32> {
    let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split(':').nth(1)?.parse().ok()
}

/// A number that neither a user nor a group has.
pub(super) fn free_number(passwd: &str, group: &str) -> Option<u32> {
    let taken = |lines: &str, number: u32| {
        lines.lines().any(|line| line.split(':').nth(2) == Some(number.to_string().as_str()))
    };
    NUMBERS.rev().find(|number| !taken(passwd, *number) && !taken(group, *number))
}

/// `lines` with one more.
pub(super) fn with_line(lines: &str, line: &str) -> String {
    let gap = if lines.is_empty() || lines.ends_with('\n') { "" } else { "\n" };
    format!("{lines}{gap}{line}\n")
}

/// `lines` without those about `name`.
pub(super) fn without(name: &str, lines: &str) -> String {
    let is_other = |line: &&str| line.strip_prefix(name).is_none_or(|rest| !rest.starts_with(':'));
    lines.lines().filter(is_other).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/ash\nsystemd:x:999:998::/:/bin/false";

    #[test]
    fn a_user_gets_a_number_that_nobody_has() {
        let group = "root:x:0:\nsystemd:x:998:\n";
        assert_eq!(free_number(PASSWD, group), Some(997));
        let passwd = with_line(PASSWD, "pureboot:x:997:997::/srv/pureboot:/bin/false");
        assert_eq!(number_of("pureboot", &passwd), Some(997));
        assert_eq!(number_of("pure", &passwd), None);
        assert_eq!(without("pureboot", &passwd), format!("{PASSWD}\n"));
        assert_eq!(free_number(&full(), ""), None);
    }

    fn full() -> String {
        NUMBERS.map(|number| format!("u{number}:x:{number}:0\n")).collect()
    }
}
