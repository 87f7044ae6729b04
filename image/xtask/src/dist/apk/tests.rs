use std::io::Read as _;

use flate2::read::DeflateDecoder;
use nix::unistd::geteuid;
use pureboot_tests::process;

use super::*;

/// Longer than what the smaller kinds of values hold.
const LONG: &str = include_str!("../apk.rs");

const ABOUT: About<'_> = About {
    name: "some-program",
    version: "1.2.3-r4",
    description: "does something",
    license: "MIT",
    maintainer: "Somebody <somebody@example.org>",
    epoch: 1_735_689_600,
    post_install: "#!/bin/sh\nexit 0\n",
    pre_deinstall: LONG,
    post_upgrade: "",
};

const FILES: [File<'_>; 4] = [
    ("usr/sbin/some-program", 0o755, &[7; 70_000]),
    ("etc/some.conf", 0o644, b"key = 1\n"),
    ("etc/other.conf", 0o640, b""),
    ("etc/init.d/some-program", 0o755, b"#!/bin/sh\n"),
];

/// A reader of our own, written from apk-v3(5).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn slots(&self, value: u32) -> Vec<u32> {
        assert!(matches!(value >> 28, 0xd | 0xe), "{value:x}");
        let at = (value & 0x0fff_ffff) as usize;
        (1..self.word(at) as usize).map(|slot| self.word(at + 4 * slot)).collect()
    }

    fn int(&self, value: u32) -> u32 {
        match value >> 28 {
            1 => value & 0x0fff_ffff,
            2 => self.word((value & 0x0fff_ffff) as usize),
            _ => panic!("{value:x} is no number"),
        }
    }

    fn blob(&self, value: u32) -> &'a [u8] {
        let at = (value & 0x0fff_ffff) as usize;
        let (from, len) = match value >> 28 {
            0 => return &[],
            8 => (at + 1, usize::from(self.0[at])),
            9 => (at + 2, usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))),
            _ => panic!("{value:x} is no text"),
        };
        &self.0[from..from + len]
    }

    fn text(&self, value: u32) -> &'a str {
        std::str::from_utf8(self.blob(value)).unwrap()
    }
}

#[test]
fn a_package_says_what_is_in_it_and_holds_it_in_that_order() {
    let package = pack(&ABOUT, &FILES).unwrap();
    let mut bytes = Vec::new();
    DeflateDecoder::new(package.strip_prefix(b"ADBd").unwrap()).read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.strip_prefix(b"ADB.pckg").unwrap();
    let mut blocks = Vec::new();
    while let Some((head, _)) = rest.split_at_checked(4) {
        let head = u32::from_le_bytes(head.try_into().unwrap());
        let len = (head & 0x3fff_ffff) as usize;
        blocks.push((head >> 30, &rest[4..len]));
        rest = &rest[len.next_multiple_of(8)..];
    }
    let [(0, tree), data @ ..] = blocks.as_slice() else { panic!("no tree") };
    let reader = Reader(tree);
    let [info, paths, scripts] = reader.slots(reader.word(4))[..] else { panic!("no package") };
    let info = reader.slots(info);
    let words = [0, 1, 3, 4, 5, 7].map(|slot| reader.text(info[slot]));
    assert_eq!(
        words,
        [
            "some-program",
            "1.2.3-r4",
            "does something",
            "noarch",
            "MIT",
            "Somebody <somebody@example.org>"
        ]
    );
    assert_eq!((reader.int(info[10]), reader.int(info[11])), (1_735_689_600, 70_018));
    let scripts = reader.slots(scripts);
    assert_eq!(reader.text(scripts[2]), ABOUT.post_install);
    assert_eq!(reader.text(scripts[3]), LONG);

    let mut found = Vec::new();
    let mut data = data.iter();
    for (dir, entry) in (1..).zip(reader.slots(paths)) {
        let entry = reader.slots(entry);
        let files = entry.get(2).map(|files| reader.slots(*files)).unwrap_or_default();
        for (number, file) in (1..).zip(files) {
            let file = reader.slots(file);
            let mut content = Vec::new();
            if reader.int(file[2]) > 0 {
                let (kind, bytes) = data.next().unwrap();
                let place = Reader(bytes);
                assert_eq!((*kind, place.word(0), place.word(4)), (2, dir, number));
                content = bytes[8..].to_vec();
            }
            assert_eq!(*reader.blob(file[4]), Sha256::digest(&content)[..]);
            let rights = reader.slots(file[1]);
            assert_eq!([reader.text(rights[1]), reader.text(rights[2])], ["root", "root"]);
            let path = format!("{}/{}", reader.text(entry[0]), reader.text(file[0]));
            found.push((path, reader.int(rights[0]), content));
        }
    }
    assert!(data.next().is_none(), "content of no file");
    let mut files = FILES.map(|(path, mode, content)| (path.to_owned(), mode, content.to_vec()));
    files.sort();
    found.sort();
    assert_eq!(found, files);
}

#[test]
fn apk_itself_installs_the_package() {
    use std::os::unix::fs::PermissionsExt as _;
    if process::find("apk").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (package, root) = (dir.path().join("some-program.apk"), dir.path().join("root"));
    std::fs::write(&package, pack(&ABOUT, &FILES).unwrap()).unwrap();
    let mut add = process::system("apk").unwrap();
    add.args(["add", "--initdb", "--no-scripts", "--no-network", "--allow-untrusted"]);
    // Whoever is not root cannot give files to root.
    add.args((!geteuid().is_root()).then_some("--usermode"));
    add.arg("--root").arg(&root).arg(&package);
    process::succeed(add).unwrap();
    for (path, mode, content) in FILES {
        let place = root.join(path);
        let found = std::fs::metadata(&place).expect(path).permissions().mode() & 0o7777;
        assert_eq!((found, std::fs::read(&place).unwrap().as_slice()), (mode, content), "{path}");
    }
}
