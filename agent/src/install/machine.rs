//! Looks at a machine, or at the tree of one that is not running, and does what a plan says.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink,
};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::lock::{self, Lock};
use super::plan::{Step, System, USER, under};
use super::users;
use crate::program;

/// A machine: this one at `/`, or the tree of another.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was so already.
    WasSo,
    /// It makes sense on a machine that runs only.
    NotHere,
    /// The command did not succeed, and has said why. Nothing that comes after it rests on it.
    Refused,
}

impl Machine {
    /// The machine whose files lie beneath `root`.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn at(root: &Path) -> anyhow::Result<Self> {
        let root =
            fs::canonicalize(root).with_context(|| format!("there is no {}", root.display()))?;
        Ok(Self { root })
    }

    /// What starts programs there.
    pub fn system(&self) -> System {
        let has = |paths: &[&str]| paths.iter().any(|path| self.place(path).exists());
        if has(&["/sbin/procd", "/etc/openwrt_release"]) {
            System::Procd
        } else if self.is_running() && !has(&["/run/systemd/system"]) {
            // A container that has systemd's files and does not run it.
            System::Other
        } else if has(&["/lib/systemd/systemd", "/usr/lib/systemd/systemd"]) {
            System::Systemd
        } else {
            System::Other
        }
    }

    /// The system that the agent is installed for there, whatever runs now; none where there is no service of it.
    pub fn installed_for(&self) -> Option<System> {
        [System::Systemd, System::Procd].into_iter().find(|system| {
            system.own_files().into_iter().any(|path| self.place(path).symlink_metadata().is_ok())
        })
    }

    /// Whether it is this machine.
    fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    fn place(&self, path: &str) -> PathBuf {
        under(&self.root, path)
    }

    /// Carries out one step.
    ///
    /// # Errors
    /// It cannot be done; what was done before stays, and the same command goes on from there.
    pub fn carry_out(&self, step: &Step) -> anyhow::Result<Outcome> {
        self.try_to(step).with_context(|| format!("cannot {step}"))
    }

    fn try_to(&self, step: &Step) -> anyhow::Result<Outcome> {
        match step {
            Step::User { home } => self.make_user(home),
            Step::Program(path) => self.copy_program(&self.place(path)),
            Step::DataDir(path) => self.make_data_dir(&self.place(path)),
            Step::File { path, mode, text, is_settings } => {
                let place = self.place(path);
                let found = fs::read_to_string(&place).ok();
                if found.as_ref() == Some(text) || (*is_settings && found.is_some()) {
                    return Ok(Outcome::WasSo);
                }
                make_parent(&place)?;
                replace(&place, text.as_bytes(), *mode)?;
                Ok(Outcome::Done)
            }
            Step::Link { path, target } => {
                let place = self.place(path);
                if fs::read_link(&place).is_ok_and(|found| found == Path::new(target)) {
                    return Ok(Outcome::WasSo);
                }
                make_parent(&place)?;
                remove(&place)?;
                symlink(target, &place)?;
                Ok(Outcome::Done)
            }
            Step::Run(command) => self.run(command),
            Step::Remove(path) => remove(&self.place(path)),
            Step::RemoveData(path) => {
                let place = self.place(path);
                if !place.exists() {
                    return Ok(Outcome::WasSo);
                }
                fs::remove_dir_all(place)?;
                Ok(Outcome::Done)
            }
            Step::RemoveUser => self.remove_user(),
        }
    }

    fn make_user(&self, home: &str) -> anyhow::Result<Outcome> {
        let _lock = self.lock_users()?;
        let (passwd_path, group_path) = (self.place("/etc/passwd"), self.place("/etc/group"));
        let passwd = read_or_empty(&passwd_path)?;
        if users::number_of(USER, &passwd).is_some() {
            return Ok(Outcome::WasSo);
        }
        let group = read_or_empty(&group_path)?;
        let number = match users::number_of(USER, &group) {
            Some(number) => number,
            None => {
                let number = users::free_number(&passwd, &group)
                    .context("all numbers from 100 to 999 are taken by users and groups")?;
                make_parent(&group_path)?;
                let line = format!("{USER}:x:{number}:");
                replace(&group_path, users::with_line(&group, &line).as_bytes(), 0o644)?;
                number
            }
        };
        let shadow_path = self.place("/etc/shadow");
        let shadow = read_or_empty(&shadow_path)?;
        if shadow_path.exists() && !shadow.contains(&format!("{USER}:")) {
            // A password that nobody can type.
            let line = format!("{USER}:!:::::::");
            replace(&shadow_path, users::with_line(&shadow, &line).as_bytes(), 0o640)?;
        }
        let line = format!("{USER}:x:{number}:{number}:PureBoot agent:{home}:/bin/false");
        replace(&passwd_path, users::with_line(&passwd, &line).as_bytes(), 0o644)?;
        Ok(Outcome::Done)
    }

    /// While this is held nobody else changes users and groups there.
    fn lock_users(&self) -> anyhow::Result<Lock> {
        let place = self.place(lock::PATH);
        make_parent(&place)?;
        lock::take(&place)
    }

    fn remove_user(&self) -> anyhow::Result<Outcome> {
        let _lock = self.lock_users()?;
        let mut outcome = Outcome::WasSo;
        for (path, mode) in [("/etc/passwd", 0o644), ("/etc/shadow", 0o640), ("/etc/group", 0o644)]
        {
            let place = self.place(path);
            let lines = read_or_empty(&place)?;
            let others = users::without(USER, &lines);
            if others.len() < lines.len() {
                replace(&place, others.as_bytes(), mode)?;
                outcome = Outcome::Done;
            }
        }
        Ok(outcome)
    }

    fn copy_program(&self, place: &Path) -> anyhow::Result<Outcome> {
        let here = program::path()?;
        if fs::canonicalize(place).is_ok_and(|there| there == here) {
            return Ok(Outcome::WasSo);
        }
        let program = fs::read(&here).with_context(|| format!("cannot read {}", here.display()))?;
        make_parent(place)?;
        replace(place, &program, 0o755)?;
        Ok(Outcome::Done)
    }

    fn make_data_dir(&self, place: &Path) -> anyhow::Result<Outcome> {
        let passwd = read_or_empty(&self.place("/etc/passwd"))?;
        let group = read_or_empty(&self.place("/etc/group"))?;
        let owner = users::number_of(USER, &passwd).zip(users::number_of(USER, &group));
        let (user, group) = owner.with_context(|| format!("there is no user and group {USER}"))?;
        let is_new = !place.exists();
        if is_new {
            fs::create_dir_all(place)?;
        }
        let metadata = fs::symlink_metadata(place)?;
        if !is_new && (metadata.uid(), metadata.mode() & 0o777) == (user, 0o700) {
            return Ok(Outcome::WasSo);
        }
        fs::set_permissions(place, Permissions::from_mode(0o700))?;
        give_to(place, user, group)?;
        Ok(Outcome::Done)
    }

    fn run(&self, command: &[&str]) -> anyhow::Result<Outcome> {
        let [program, arguments @ ..] = command else { return Ok(Outcome::WasSo) };
        if !self.is_running() {
            return Ok(Outcome::NotHere);
        }
        match Command::new(program).args(arguments).status() {
            Ok(status) if status.success() => Ok(Outcome::Done),
            Ok(_) => Ok(Outcome::Refused),
            // A service that was taken away before has no script that would stop it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Outcome::NotHere),
            Err(error) => Err(error.into()),
        }
    }
}

/// Of a directory that root has used, everything becomes the agent's.
fn give_to(place: &Path, user: u32, group: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(place)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(place)? {
            give_to(&entry?.path(), user, group)?;
        }
    }
    // A link is not followed: it could lead anywhere.
    if metadata.is_symlink() { Ok(()) } else { chown(place, Some(user), Some(group)) }
}

fn read_or_empty(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn make_parent(place: &Path) -> io::Result<()> {
    place.parent().map_or(Ok(()), fs::create_dir_all)
}

fn remove(place: &Path) -> anyhow::Result<Outcome> {
    match fs::remove_file(place) {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Outcome::WasSo),
        Err(error) => Err(error.into()),
    }
}

/// Puts a file in its place whole or not at all, also where the former one is a program that runs. The former one's owner and rights
/// stay; a new one has `mode`.
fn replace(place: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let temporary = place.with_added_extension("pureboot-new");
    remove(&temporary)?;
    let former = fs::metadata(place).ok();
    let mode = former.as_ref().map_or(mode, |former| former.mode() & 0o7777);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    if let Some(former) = former {
        chown(&temporary, Some(former.uid()), Some(former.gid()))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&temporary, place)?;
    place.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_refused_or_not_there_keeps_nothing_from_being_taken_away() {
        let here = Machine::at(Path::new("/")).expect("the root");
        let run = |command| here.run(command).expect("an outcome");
        assert_eq!(run(&["true"]), Outcome::Done);
        assert_eq!(run(&["false"]), Outcome::Refused);
        assert_eq!(run(&["/etc/init.d/pureboot-none", "stop"]), Outcome::NotHere);
        let dir = tempfile::tempdir().expect("a directory");
        let other = Machine::at(dir.path()).expect("a tree");
        assert_eq!(other.run(&["false"]).expect("an outcome"), Outcome::NotHere);
    }

    #[test]
    fn what_was_installed_is_known_by_its_files_where_nothing_of_the_system_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let machine = Machine::at(dir.path()).expect("a tree");
        assert_eq!((machine.installed_for(), machine.system()), (None, System::Other));
        for system in [System::Procd, System::Systemd] {
            for path in system.own_files() {
                let file = machine.place(path);
                fs::create_dir_all(file.parent().expect("a directory")).expect("made");
                fs::write(&file, "").expect("written");
                assert_eq!(
                    (machine.installed_for(), machine.system()),
                    (Some(system), System::Other)
                );
                fs::remove_file(&file).expect("removed");
            }
        }
    }
}
