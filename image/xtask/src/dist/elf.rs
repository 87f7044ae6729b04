//! What the head of a program says of it: for which machine it is, and that it needs nothing of that machine.

use anyhow::{Context, Result, ensure};

use super::target::Target;

/// Kinds of segments (ELF, `p_type`) that ask for somebody else's help.
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
/// The kind of a section of names for debuggers (`sh_type`).
const SYMBOLS: u32 = 2;

/// Where the numbers lie that differ between 32 and 64 bits.
struct Layout {
    /// `e_phoff`, and the same of sections: where, and how long an offset is.
    segments_at: usize,
    sections_at: usize,
    offset_len: usize,
    /// `e_phentsize`, followed by `e_phnum`, `e_shentsize`, `e_shnum`.
    sizes_at: usize,
}

const BITS_32: Layout = Layout { segments_at: 28, sections_at: 32, offset_len: 4, sizes_at: 42 };
const BITS_64: Layout = Layout { segments_at: 32, sections_at: 40, offset_len: 8, sizes_at: 54 };

/// Holds a program to being static, stripped and for `target`.
///
/// # Errors
/// It is not; the text says what it is.
pub(crate) fn check(bytes: &[u8], target: Target) -> Result<()> {
    ensure!(bytes.starts_with(b"\x7fELF"), "it is no program");
    let layout = match number(bytes, 4, 1)? {
        1 => BITS_32,
        _ => BITS_64,
    };
    ensure!(number(bytes, 5, 1)? == 1, "it is for a machine with the other order of bytes");
    let machine = number(bytes, 18, 2)?;
    ensure!(
        machine == u64::from(target.machine()),
        "it is for machine {machine}, not {}",
        target.word()
    );
    let (segments, sections) = (
        table(bytes, layout.segments_at, layout.offset_len, layout.sizes_at, 0)?,
        table(bytes, layout.sections_at, layout.offset_len, layout.sizes_at + 4, 4)?,
    );
    ensure!(
        !segments.contains(&INTERPRETER.into()),
        "it names an interpreter, so it is not static"
    );
    ensure!(!segments.contains(&DYNAMIC.into()), "it has a dynamic section, so it is not static");
    ensure!(!sections.contains(&SYMBOLS.into()), "it is not stripped");
    Ok(())
}

/// The kinds in a table of the program: its place at `at`, the length of an entry and the number of entries at `sizes_at`, and the
/// kind `kind_at` bytes into each entry.
fn table(
    bytes: &[u8],
    at: usize,
    offset_len: usize,
    sizes_at: usize,
    kind_at: usize,
) -> Result<Vec<u64>> {
    let start = usize::try_from(number(bytes, at, offset_len)?)?;
    let (len, count) = (
        usize::try_from(number(bytes, sizes_at, 2)?)?,
        usize::try_from(number(bytes, sizes_at + 2, 2)?)?,
    );
    (0..count).map(|index| number(bytes, start + index * len + kind_at, 4)).collect()
}

/// A number of `len` bytes, the lowest first.
fn number(bytes: &[u8], at: usize, len: usize) -> Result<u64> {
    let digits = bytes.get(at..at + len).context("the program is cut short")?;
    Ok(digits.iter().rev().fold(0, |number, digit| number << 8 | u64::from(*digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head with one segment and one section of these kinds.
    fn program(machine: u16, segment: u32, section: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56 + 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[40..48].copy_from_slice(&120_u64.to_le_bytes());
        for (at, number) in [(54, 56_u16), (56, 1), (58, 64), (60, 1)] {
            bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        bytes[124..128].copy_from_slice(&section.to_le_bytes());
        bytes
    }

    #[test]
    fn only_what_is_static_and_stripped_and_for_the_machine_ships() {
        let of = |bytes: &[u8]| check(bytes, Target::X86_64).map_err(|error| error.to_string());
        assert_eq!(of(&program(62, 1, 1)), Ok(()));
        for (bytes, words) in [
            (program(183, 1, 1), "for machine 183"),
            (program(62, INTERPRETER, 1), "names an interpreter"),
            (program(62, DYNAMIC, 1), "has a dynamic section"),
            (program(62, 1, SYMBOLS), "not stripped"),
            (program(62, 1, 1)[..100].to_vec(), "cut short"),
            (b"#!/bin/sh".to_vec(), "no program"),
        ] {
            let error = of(&bytes).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_program_that_runs_here_is_dynamic() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let verdicts = [Target::X86_64, Target::Aarch64].map(|target| check(&own, target).is_ok());
        assert_eq!(verdicts, [false, false]);
    }
}
