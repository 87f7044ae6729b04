//! `cargo xtask dist`: what ships. Static programs for each kind of machine, packages, sums, and lists of what is in them.

mod apk;
mod elf;
mod package;
mod sbom;
mod target;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use sha2::{Digest, Sha256};

use self::target::{PROGRAMS, Program, TARGETS, Target};
use self::toolchain::Toolchain;
use crate::cargo;

/// Build what ships into target/dist: static programs, packages, SHA-256 sums and bills of materials.
#[derive(FromArgs, Default)]
#[argh(subcommand, name = "dist")]
pub(crate) struct Dist {
    /// for this machine alone: x86_64, aarch64 or armv7; may be given more than once (default: all)
    #[argh(option, long = "target")]
    targets: Vec<Target>,

    /// this program alone: agent, agent-compile (for authors of policies) or controller (default: all)
    #[argh(option)]
    program: Option<Program>,

    /// build everything twice, in two places, and compare
    #[argh(switch)]
    twice: bool,

    /// how many compilers run at once (default: as many as there are processors)
    #[argh(option)]
    jobs: Option<u32>,

    /// where compilers put what they make; a gigabyte for each kind of machine (default: target/static)
    #[argh(option)]
    build_dir: Option<PathBuf>,
}

impl Dist {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let out = cargo::root()?.join("target/dist");
        fs::create_dir_all(&out)?;
        let targets = if self.targets.is_empty() { TARGETS.to_vec() } else { self.targets.clone() };
        let wanted = |program: &Program| self.program.is_none_or(|only| only == *program);
        let build_dir = match &self.build_dir {
            Some(dir) => std::path::absolute(dir)?,
            None => cargo::root()?.join("target/static"),
        };
        let (mut made, mut too_large) = (Vec::new(), Vec::new());
        for target in targets {
            let toolchain = Toolchain::find(target)?;
            println!("{}: {toolchain}", target.triple());
            for program in PROGRAMS.into_iter().filter(wanted).filter(|it| it.runs_on(target)) {
                let build = |dir: &Path| toolchain.build(program, target, dir, self.jobs);
                let built = build(&build_dir)?;
                if self.twice {
                    let again = build(&build_dir.with_extension("again"))?;
                    ensure!(
                        fs::read(&built)? == fs::read(&again)?,
                        "{} and {} differ: the build is not reproducible",
                        built.display(),
                        again.display()
                    );
                    println!("{}: built twice, the same", program.name());
                }
                let (files, excess) = ship(program, target, &built, &out)?;
                made.extend(files);
                match excess {
                    Some(excess) if !toolchain.is_thrifty() => {
                        println!("larger than by Debian's compiler: {excess}");
                    }
                    excess => too_large.extend(excess),
                }
            }
        }
        write_sums(&out, &made)?;
        println!("{} files in {}", made.len() + 1, out.display());
        ensure!(too_large.is_empty(), "larger than they may be: {}", too_large.join(", "));
        Ok(ExitCode::SUCCESS)
    }
}

/// Why what ships cannot be built here; none where it can.
pub(crate) fn missing() -> Option<String> {
    TARGETS.into_iter().find_map(|target| Some(format!("{:#}", Toolchain::find(target).err()?)))
}

/// Checks a program and puts it, its bill of materials and its packages into `out`; returns their names, and how large the program is
/// if it is larger than it may be.
fn ship(
    program: Program,
    target: Target,
    built: &Path,
    out: &Path,
) -> Result<(Vec<String>, Option<String>)> {
    let bytes = fs::read(built).with_context(|| built.display().to_string())?;
    elf::check(&bytes, target).with_context(|| built.display().to_string())?;
    let name = format!("{}-{}", program.name(), target.word());
    let (size, limit) = (bytes.len(), program.len_max());
    println!("{name}: {:.2} MB static, at most {} MB", megabytes(size), limit / 1_000_000);
    let excess = (size > limit).then(|| format!("{name} ({size} bytes, at most {limit})"));
    let mut files = vec![
        (name.clone(), bytes.clone()),
        (format!("{name}.cdx.json"), sbom::of(program, target, &bytes)?.into_bytes()),
    ];
    if program != Program::AuthorsAgent {
        files.push((format!("{name}.rootfs.tar"), package::rootfs(program, &bytes)?));
    }
    if program == Program::Agent {
        files.extend(package::of_agent(target, &bytes)?);
    }
    for (name, bytes) in &files {
        fs::write(out.join(name), bytes)?;
    }
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(out.join(&name), fs::Permissions::from_mode(0o755))?;
    Ok((files.into_iter().map(|(name, _)| name).collect(), excess))
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `SHA256SUMS`, for `sha256sum --check`: of what was made now, and of what an earlier run has left there.
fn write_sums(out: &Path, made: &[String]) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(out)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.retain(|name| name != "SHA256SUMS");
    names.sort();
    ensure!(made.iter().all(|name| names.contains(name)), "a file went while it was summed up");
    let mut sums = String::new();
    for name in names {
        sums += &format!("{}  {name}\n", sha256(&fs::read(out.join(&name))?));
    }
    fs::write(out.join("SHA256SUMS"), sums)?;
    Ok(())
}
