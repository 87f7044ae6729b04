//! TFTP with clients that we did not write, and with one of our own that says exactly what it is told to.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use pureboot_tests::process;
use pureboot_tests::site::{Agent, Ports, Site};
use pureboot_tests::tftp::{Client, Packet, ack, read_request, refuse_options};
use pureboot_tests::{noise, sha256};

use crate::need::Need;
use crate::{Case, case};

const TFTP_HPA: Need = Need::Program("tftp", "tftp-hpa");
const ATFTP: Need = Need::Program("atftp", "atftp");

/// Around the block lengths 512 and 1,428: empty, one less, exact, one more, many.
const SIZES: [usize; 10] = [0, 1, 511, 512, 513, 1_024, 1_428, 14_280, 65_536, 300_001];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(tftp_hpa_reads_every_size, TFTP_HPA),
        case!(atftp_reads_every_size_with_options, ATFTP),
        case!(every_size_comes_whole_with_every_option),
        case!(f15_block_numbers_roll_over),
        case!(fifty_clients_at_once_get_their_files),
        case!(a_bare_name_means_a_boot_loader),
        case!(the_first_script_is_made_by_the_agent),
        case!(a_missing_file_is_refused_at_once),
        case!(a_size_probe_is_not_a_failure),
        case!(the_answer_comes_from_the_address_that_was_asked),
        case!(an_oack_holds_only_what_was_asked),
    ]
}

/// A name in the cache, and its content.
type File = (String, Vec<u8>);

/// A site with a file of each size, and the files.
fn site_with_files() -> Result<(Site, Vec<File>)> {
    let site = Site::start()?;
    let files: Vec<File> =
        SIZES.iter().map(|size| (format!("images/size-{size}"), noise(*size))).collect();
    for (name, content) in &files {
        site.agent.cache_add(name, content)?;
    }
    Ok((site, files))
}

fn compare(name: &str, expected: &[u8], got: &[u8]) -> Result<()> {
    ensure!(
        sha256(expected) == sha256(got),
        "{name}: {} bytes expected, {} bytes came, not the same",
        expected.len(),
        got.len()
    );
    Ok(())
}

/// Reads every file with the commands that `client` makes for a name and a local path.
fn read_all(client: impl Fn(SocketAddr, &str, &str) -> Result<Command>) -> Result<()> {
    let (site, files) = site_with_files()?;
    for (name, content) in &files {
        let local = site.dir().join("local");
        let path = local.to_str().context("a path of ASCII")?;
        process::succeed(client(site.agent.tftp(), name, path)?).with_context(|| name.clone())?;
        compare(name, content, &fs::read(&local)?)?;
        fs::remove_file(&local)?;
    }
    Ok(())
}

fn tftp_hpa_reads_every_size() -> Result<()> {
    read_all(|server, name, local| {
        let mut command = process::system("tftp")?;
        command.args(["-m", "binary", &server.ip().to_string(), &server.port().to_string()]);
        command.args(["-c", "get", name, local]);
        Ok(command)
    })
}

fn atftp_reads_every_size_with_options() -> Result<()> {
    for options in [&[][..], &["blksize 1428"], &["blksize 1428", "windowsize 8", "tsize 0"]] {
        read_all(|server, name, local| {
            let mut command = process::system("atftp")?;
            command.args(options.iter().flat_map(|option| ["--option", option]));
            command.args(["--get", "--remote-file", name, "--local-file", local]);
            command.args([&server.ip().to_string(), &server.port().to_string()]);
            Ok(command)
        })
        .with_context(|| format!("with {options:?}"))?;
    }
    Ok(())
}

fn client(agent: &Agent) -> Result<Client> {
    Client::new(agent.tftp(), Ipv4Addr::LOCALHOST)
}

fn every_size_comes_whole_with_every_option() -> Result<()> {
    let (site, files) = site_with_files()?;
    for options in [
        &[][..],
        &[("blksize", "512")],
        &[("blksize", "1468"), ("tsize", "0"), ("windowsize", "4")],
        &[("BLKSIZE", "1432"), ("TSize", "0")],
        &[("windowsize", "16"), ("blksize", "1428"), ("timeout", "3")],
        &[("blksize", "65464")],
    ] {
        for (name, content) in &files {
            let download = client(&site.agent)?
                .read(name, options)
                .with_context(|| format!("{name} with {options:?}"))?;
            compare(name, content, &download.bytes)?;
            let tsize = download.options.iter().find(|(option, _)| option == "tsize");
            let size = content.len().to_string();
            ensure!(tsize.is_none_or(|(_, told)| *told == size), "{name}: tsize {tsize:?}");
        }
    }
    Ok(())
}

fn f15_block_numbers_roll_over() -> Result<()> {
    const BLOCKS: usize = 65_540;
    let site = Site::start()?;
    let content = noise(BLOCKS * 8);
    site.agent.cache_add("images/many-blocks", &content)?;
    let in_windows = [("blksize", "8"), ("windowsize", "64")];
    let in_lock_step = [("blksize", "8")];
    let forms = [Some(&in_windows[..]), pureboot_tests::is_long().then_some(&in_lock_step[..])];
    for options in forms.into_iter().flatten() {
        let download = client(&site.agent)?.read("images/many-blocks", options)?;
        compare("images/many-blocks", &content, &download.bytes)?;
    }
    Ok(())
}

fn fifty_clients_at_once_get_their_files() -> Result<()> {
    let site = Site::start()?;
    let content = noise(400_000);
    site.agent.cache_add("bootloaders/ipxe.efi", &content)?;
    let server = site.agent.tftp();
    thread::scope(|scope| {
        let machines: Vec<_> = (1..=50)
            .map(|number| {
                // Every machine has an address of its own: the limits count per address.
                let machine = Client::new(server, Ipv4Addr::new(127, 0, 1, number));
                scope.spawn(move || machine?.read("ipxe.efi", &[("blksize", "1432")]))
            })
            .collect();
        for machine in machines {
            let download = machine.join().map_err(|_| anyhow!("a client panicked"))??;
            compare("ipxe.efi", &content, &download.bytes)?;
        }
        Ok(())
    })
}

fn a_bare_name_means_a_boot_loader() -> Result<()> {
    let site = Site::start()?;
    let content = noise(2_000);
    site.agent.cache_add("bootloaders/undionly.kpxe", &content)?;
    for name in ["undionly.kpxe", "/undionly.kpxe", "bootloaders/undionly.kpxe"] {
        let download = client(&site.agent)?.read(name, &[]).with_context(|| name.to_owned())?;
        compare(name, &content, &download.bytes)?;
    }
    Ok(())
}

fn the_first_script_is_made_by_the_agent() -> Result<()> {
    let site = Site::start()?;
    let options = [("tsize", "0"), ("blksize", "1432")];
    let download = client(&site.agent)?.read("autoexec.ipxe", &options)?;
    let script = String::from_utf8(download.bytes)?;
    ensure!(script.starts_with("#!ipxe\n"), "not a script: {script}");
    let agent = format!("http://{}/", site.agent.boot());
    ensure!(script.contains(&agent), "it does not lead to {agent}:\n{script}");
    Ok(())
}

fn a_missing_file_is_refused_at_once() -> Result<()> {
    let site = Site::start()?;
    for name in ["revocations_sku.efi", "images/none", "pxelinux.cfg/default", "grub/x.cfg"] {
        let client = client(&site.agent)?;
        // Sent once: a server that waited to be asked again would let this time out.
        client.send(&read_request(name, &[("tsize", "0")]))?;
        let (answer, _) = client.receive()?;
        ensure!(matches!(answer, Packet::Error(1, _)), "{name}: {answer:?}");
    }
    Ok(())
}

fn a_size_probe_is_not_a_failure() -> Result<()> {
    let site = Site::start()?;
    let content = noise(90_000);
    site.agent.cache_add("bootloaders/snponly.efi", &content)?;
    let client = client(&site.agent)?;
    let options = [("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")];
    let (answer, from) = client.ask(&read_request("snponly.efi", &options))?;
    ensure!(answer.option("tsize") == Some("90000"), "expected the size, got {answer:?}");
    client.send_to(&refuse_options(), from)?;
    // The same socket asks again, as OVMF does.
    let download = client.read("snponly.efi", &options)?;
    compare("snponly.efi", &content, &download.bytes)
}

fn the_answer_comes_from_the_address_that_was_asked() -> Result<()> {
    let site = Site::start_at(Ports { address: Ipv4Addr::UNSPECIFIED, ..Ports::LOOPBACK })?;
    let content = noise(1_000);
    site.agent.cache_add("bootloaders/here.efi", &content)?;
    for address in [Ipv4Addr::new(127, 0, 0, 5), Ipv4Addr::new(127, 0, 9, 9)] {
        let server = SocketAddr::from((address, site.agent.tftp().port()));
        let download = Client::new(server, Ipv4Addr::LOCALHOST)?.read("here.efi", &[])?;
        ensure!(
            download.from.ip() == server.ip(),
            "{server} was asked, {} answered",
            download.from
        );
        ensure!(download.from.port() != server.port(), "a transfer has a port of its own");
        compare("here.efi", &content, &download.bytes)?;
    }
    Ok(())
}

fn an_oack_holds_only_what_was_asked() -> Result<()> {
    let site = Site::start()?;
    site.agent.cache_add("bootloaders/small.efi", &noise(100))?;
    for (asked, expected) in [
        (&[("tsize", "0")][..], vec!["tsize"]),
        (&[("windowsize", "4")], vec!["windowsize"]),
        (&[("multicast", ""), ("blksize", "1024")], vec!["blksize"]),
    ] {
        let client = client(&site.agent)?;
        let (answer, from) = client.ask(&read_request("small.efi", asked))?;
        let Packet::Oack(options) = &answer else {
            return Err(anyhow!("{asked:?} was answered {answer:?}"));
        };
        let names: Vec<_> = options.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(names == expected, "asked {asked:?}, answered {options:?}");
        client.send_to(&ack(0), from)?;
    }
    let client = client(&site.agent)?;
    let (answer, _) = client.ask(&read_request("small.efi", &[("nonsense", "1")]))?;
    ensure!(matches!(answer, Packet::Data(1, _)), "nothing to acknowledge, but {answer:?}");
    Ok(())
}
