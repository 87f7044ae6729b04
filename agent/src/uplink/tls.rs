//! Whom the agent believes to be the controller.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures_rustls::TlsConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// A connector that accepts certificates of the authorities in `ca_file` and of no others; without a file, those of the web's
/// public authorities.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub fn connector(ca_file: Option<&Path>) -> anyhow::Result<TlsConnector> {
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
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("the ciphers of ring do not fit TLS 1.2 and 1.3")?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_pins_nothing_and_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(connector(Some(file.path())).is_err());
        assert!(connector(Some(Path::new("/nonexistent/ca.pem"))).is_err());
        assert!(connector(None).is_ok());
    }
}
