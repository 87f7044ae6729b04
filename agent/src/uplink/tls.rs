//! Whom the agent believes to be the controller.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures_rustls::TlsConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};

use super::floor::Floor;

/// A connector that accepts certificates of the authorities in `ca_file` and of no others; without a file, those of the web's
/// public authorities.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub fn connector(ca_file: Option<&Path>) -> anyhow::Result<TlsConnector> {
    connector_by(ca_file, Arc::<Floor>::default())
}

/// As [`connector`], where `clock` tells the time that certificates are judged by.
///
/// # Errors
/// As [`connector`].
pub fn connector_by(
    ca_file: Option<&Path>,
    clock: Arc<dyn TimeProvider>,
) -> anyhow::Result<TlsConnector> {
    Ok(TlsConnector::from(Arc::new(client(ca_file, clock)?)))
}

fn client(ca_file: Option<&Path>, clock: Arc<dyn TimeProvider>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| format!("cannot read certificates from {}", path.display()))?;
            ensure!(
                !certificates.is_empty(),
                "{} holds no certificate in PEM form",
                path.display()
            );
            for certificate in certificates {
                roots.add(certificate).with_context(|| {
                    format!("{} holds a certificate that cannot be an authority", path.display())
                })?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let ciphers = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_details(ciphers, clock)
        .with_safe_default_protocol_versions()
        .context("the ciphers of ring do not fit TLS 1.2 and 1.3")?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pureboot_protocol::{ClockQuality, Timestamp};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
    use rustls::{CertificateError, ClientConnection, Error, ServerConfig, ServerConnection};
    use smol::future::block_on;

    use super::*;

    /// A clock that stands still.
    #[derive(Debug)]
    struct Still(Timestamp);

    impl TimeProvider for Still {
        fn current_time(&self) -> Option<UnixTime> {
            let ms = u64::try_from(self.0.unix_ms()).ok()?;
            Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
        }
    }

    #[test]
    fn a_file_without_certificates_pins_nothing_and_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(connector(Some(file.path())).is_err());
        assert!(connector(Some(Path::new("/nonexistent/ca.pem"))).is_err());
        assert!(connector(None).is_ok());
    }

    /// A controller whose certificate holds from mid-2026 to mid-2027, and the file of its authority.
    fn controller() -> (tempfile::NamedTempFile, ServerConfig) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = || KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        let mut params = CertificateParams::new(vec!["centre".to_owned()]).expect("parameters");
        params.not_before = rcgen::date_time_ymd(2026, 6, 1);
        params.not_after = rcgen::date_time_ymd(2027, 6, 1);
        let own = key();
        let certificate = params.signed_by(&own, &issuer).expect("a certificate");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), issuer.pem()).expect("written");
        let ciphers = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(ciphers)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(own.serialize_der()).expect("a key"),
            )
            .expect("a server");
        (file, server)
    }

    /// A handshake of an agent whose certificates are judged at `judged_at`.
    fn shake_hands(judged_at: Timestamp) -> Result<(), Error> {
        let (authority, server) = controller();
        let client = client(Some(authority.path()), Arc::new(Still(judged_at)));
        let client = Arc::new(client.expect("a client"));
        let name = ServerName::try_from("centre").expect("a name");
        let mut client = ClientConnection::new(client, name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("written");
            server.read_tls(&mut wire.as_slice()).expect("read");
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("written");
            }
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).expect("read");
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn t1_a_router_without_a_clock_of_its_own_believes_the_certificate_that_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = crate::data_dir::DataDir::create(&dir.path().join("data")).expect("made");
        std::fs::create_dir(data_dir.root().join("state")).expect("made");
        let autumn = "2026-10-01T00:00:00Z".parse().expect("a time");
        block_on(Floor::load(&data_dir).hear(autumn, ClockQuality::Synced, autumn));
        let unset = Timestamp::from_unix_ms(30_000);
        assert!(matches!(
            shake_hands(unset),
            Err(Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
            ))
        ));
        let next_life = Floor::load(&data_dir);
        assert_eq!(shake_hands(next_life.judged_at(unset)), Ok(()));
        // What has expired is refused whatever the floor.
        let years_later = "2028-01-01T00:00:00Z".parse().expect("a time");
        assert!(matches!(
            shake_hands(next_life.judged_at(years_later)),
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        ));
    }
}
