//! Which side speaks TLS, and the certificates for it: made for the run, gone with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig};
use rustls::{SignatureScheme, version};
use serde::{Deserialize, Serialize};

/// The name that the certificate is for.
pub const NAME: &str = "localhost";
/// What all speak, for readers of figures.
pub const SPOKEN: &str =
    "TLS 1.3, AES-128-GCM, X25519, ECDSA P-256; each system verifies its upstream";

/// Where https is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// Nowhere
    #[default]
    Off,
    /// Between system and origin
    Upstream,
    /// Between clients and system
    Clients,
    /// On both sides
    Both,
}

impl Tls {
    /// Whether the origin speaks https.
    pub fn has_upstream(self) -> bool {
        matches!(self, Self::Upstream | Self::Both)
    }

    /// Whether clients speak https.
    pub fn has_clients(self) -> bool {
        matches!(self, Self::Clients | Self::Both)
    }

    /// The end of a scenario's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "",
            Self::Upstream => ", https upstream",
            Self::Clients => ", https clients",
            Self::Both => ", https both sides",
        }
    }
}

/// An authority, what it signed, and the configurations of the load's two ends.
///
/// Both ends know one version, one cipher and one key exchange, so that every system uses the
/// same on both sides.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    /// The origin's.
    pub server: Arc<ServerConfig>,
    resuming: Arc<ClientConfig>,
    full: Arc<ClientConfig>,
}

impl Pki {
    /// Makes keys and certificates, in a directory that goes with the value.
    pub fn new() -> Result<Self> {
        let (authority, leaf) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "loadtest authority");
        let root = params.self_signed(&authority)?;
        let issuer = Issuer::new(params, authority);
        let names = vec![NAME.to_owned(), "127.0.0.1".to_owned()];
        let signed = CertificateParams::new(names)?.signed_by(&leaf, &issuer)?;

        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id(), MADE.fetch_add(1, Relaxed));
        let dir = std::env::temp_dir().join(format!("loadtest-tls-{}-{}", number.0, number.1));
        fs::create_dir_all(&dir).context("a directory for certificates")?;
        let (chain, key) = (signed.pem(), leaf.serialize_pem());
        let files = [
            ("ca.pem", root.pem()),
            ("cert.pem", chain.clone()),
            ("key.pem", key.clone()),
            ("both.pem", chain + &key),
        ];
        for (name, text) in files {
            fs::write(dir.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }

        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let certificate = signed.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Known(certificate)))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut full = client.clone();
        full.resumption = Resumption::disabled();
        Ok(Self { dir, server: Arc::new(server), resuming: Arc::new(client), full: Arc::new(full) })
    }

    /// The generator's, which resumes sessions where the system lets it, or never does.
    pub fn client(&self, resumes: bool) -> &Arc<ClientConfig> {
        if resumes { &self.resuming } else { &self.full }
    }

    /// Where `ca.pem`, `cert.pem`, `key.pem` and `both.pem` (certificate and key) are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Accepts the one certificate it knows, byte for byte, and leaves its signatures alone: a
/// client's share of a handshake costs more than a server's, and the generator would be the
/// bottleneck.
#[derive(Debug)]
struct Known(CertificateDer<'static>);

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *certificate == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
