//! What TLS connections are made with: roots, certificates, keys, and their reload.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DEFAULT_VERSIONS, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_native_certs::CertificateResult;

use super::session::Session;
use crate::config::plan::{CertificateFiles, UpstreamTlsPlan};

/// The protocol spoken inside (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// Upstream names whose sessions are kept for resumption; there is one.
const RESUMED_NAMES_MAX: usize = 4;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// How upstream connections are secured. Shared by all cores, so that one's session resumes on
/// another; only handshakes touch it.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl UpstreamTls {
    /// Reads roots and certificates for the upstream at `host`.
    ///
    /// # Errors
    /// One line: the flag, why, and the mend.
    pub fn load(plan: &UpstreamTlsPlan, host: &str) -> Result<Self, String> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let builder = if plan.insecure {
            let algorithms = provider.signature_verification_algorithms;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(algorithms)))
        } else {
            builder.with_root_certificates(roots(plan.ca.as_deref())?)
        };
        let mut config = match &plan.certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let flags = ("--upstream-cert", "--upstream-key");
                let (chain, key) = read_pair(files, flags)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unfit(&files.key, flags.1, &error))?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::in_memory_sessions(RESUMED_NAMES_MAX);
        // The keys go to the record layer of ours, and nowhere else.
        config.enable_secret_extraction = true;
        let name = plan.name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            let flag = if plan.name.is_some() { "--upstream-tls-name" } else { "--upstream" };
            format!("{flag}: {name:?} is no name a certificate can have; write e.g. llm.internal")
        })?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// A connection before its first byte.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn session(&self) -> Result<Session, Error> {
        let (config, name) = (Arc::clone(&self.config), self.name.clone());
        Ok(Session::client(UnbufferedClientConnection::new(config, name)?))
    }
}

/// The authorities to trust: those in `file` alone, or else the platform's, or else Mozilla's.
fn roots(file: Option<&Path>) -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    if let Some(path) = file {
        let path_shown = path.display();
        for certificate in read_certificates(path, "--upstream-ca")? {
            store.add(certificate).map_err(|error| {
                format!("--upstream-ca: {path_shown}: is no authority's certificate: {error}")
            })?;
        }
        return Ok(Arc::new(store));
    }
    let asked = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
    let asked = asked.into_iter().find_map(|name| Some((name, std::env::var_os(name)?)));
    let asked = asked.as_ref().map(|(name, path)| (*name, Path::new(path)));
    platform_roots(rustls_native_certs::load_native_certs(), asked, &mut store)?;
    Ok(Arc::new(store))
}

/// Adds the platform's authorities, or Mozilla's where there are none, unless the environment has
/// `asked` for certain ones: nobody else is trusted instead.
fn platform_roots(
    native: CertificateResult,
    asked: Option<(&str, &Path)>,
    store: &mut RootCertStore,
) -> Result<(), String> {
    store.add_parsable_certificates(native.certs);
    if store.is_empty() {
        if let Some((name, path)) = asked {
            let why = native.errors.first().map_or_else(String::new, |e| format!(": {e}"));
            let path = path.display();
            return Err(format!(
                "{name}: {path} holds no certificate{why}; name one with PEM in it, or unset it"
            ));
        }
        log::info!("no certificate authorities are installed here, so Mozilla's are used");
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(())
}

fn read_certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> =
        read.map_err(|error| format!("{flag}: {shown} cannot be read: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{flag}: {shown} holds no certificate; it must be in PEM form"));
    }
    Ok(certificates)
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_pair(files: &CertificateFiles, flags: (&str, &str)) -> Result<Pair, String> {
    let chain = read_certificates(&files.certificate, flags.0)?;
    let shown = files.key.display();
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            format!("{}: {shown} holds no private key; it must be in PEM form", flags.1)
        }
        error => format!("{}: {shown} cannot be read: {error}", flags.1),
    })?;
    Ok((chain, key))
}

fn unfit(key: &Path, flag: &str, error: &Error) -> String {
    let why = match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "is not the key of the certificate; give both from one issue".to_owned()
        }
        other => format!("is refused: {other}"),
    };
    format!("{flag}: {} {why}", key.display())
}

/// Accepts any certificate (`--upstream-insecure`); that the peer has its key is still checked.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// What clients are shown: certificates by name, exchanged while connections live on.
#[derive(Debug)]
pub struct DownstreamTls {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
    files: Vec<CertificateFiles>,
    watched: Mutex<Watched>,
}

/// The certificates in use.
#[derive(Debug)]
struct Shown(RwLock<Vec<Arc<CertifiedKey>>>);

/// What the files looked like.
#[derive(Debug, Default)]
struct Watched {
    /// When they were read.
    loaded: Vec<Stamp>,
    /// At the last look.
    seen: Vec<Stamp>,
}

/// What tells one version of a file from the next.
type Stamp = Option<(SystemTime, u64, u64)>;

impl ResolvesServerCert for Shown {
    /// The first certificate that is for the name asked for, or else the first of all.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let (Some(asked), Some(first)) = (&asked, key.cert.first()) else { return false };
            ParsedCertificate::try_from(first)
                .is_ok_and(|parsed| verify_server_name(&parsed, asked).is_ok())
        };
        shown.iter().find(fits).or_else(|| shown.first()).cloned()
    }
}

impl DownstreamTls {
    /// The files it was read from.
    pub fn files(&self) -> &[CertificateFiles] {
        &self.files
    }

    /// Reads the certificates and keys.
    ///
    /// # Errors
    /// One line: the flag, why, and the mend.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, String> {
        let provider = provider();
        let loaded = stamps(files);
        let shown = Arc::new(Shown(RwLock::new(read_shown(files, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Shown>::clone(&shown));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Sessions are resumed by tickets alone: nothing is kept for a client that has gone.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new()
            .map_err(|error| format!("TLS tickets cannot be made: {error}"))?;
        config.enable_secret_extraction = true;
        let watched = Mutex::new(Watched { seen: loaded.clone(), loaded });
        Ok(Self { config: Arc::new(config), shown, files: files.to_vec(), watched })
    }

    /// A connection before its first byte.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn session(&self) -> Result<Session, Error> {
        Ok(Session::server(UnbufferedServerConnection::new(Arc::clone(&self.config))?))
    }

    /// Reads the files again; new connections get what they hold now.
    ///
    /// # Errors
    /// They are no good: why. What was in use stays so.
    pub fn reload(&self) -> Result<(), String> {
        let loaded = stamps(&self.files);
        {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            *watched = Watched { seen: loaded.clone(), loaded };
        }
        let fresh = read_shown(&self.files, &provider())?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Whether the files have changed since they were read, and rest since the last look: between
    /// two halves of a change, a certificate and a key do not fit.
    pub fn has_changed(&self) -> bool {
        let now = stamps(&self.files);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = watched.seen == now;
        watched.seen = now;
        rests && watched.seen != watched.loaded
    }
}

fn read_shown(
    files: &[CertificateFiles],
    provider: &CryptoProvider,
) -> Result<Vec<Arc<CertifiedKey>>, String> {
    let flags = ("--tls-cert", "--tls-key");
    let read = |pair: &CertificateFiles| {
        let (chain, key) = read_pair(pair, flags)?;
        let certified = CertifiedKey::from_der(chain, key, provider);
        certified.map(Arc::new).map_err(|error| unfit(&pair.key, flags.1, &error))
    };
    files.iter().map(read).collect()
}

fn stamps(files: &[CertificateFiles]) -> Vec<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    files.iter().flat_map(|pair| [stamp(&pair.certificate), stamp(&pair.key)]).collect()
}

/// The TLS of both sides of one relay.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Connections to each endpoint of each upstream group are secured so.
    pub upstreams: Vec<Vec<Option<Arc<UpstreamTls>>>>,
    /// Connections to each listener are secured so.
    pub listeners: Vec<Option<Arc<DownstreamTls>>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mozillas_authorities_stand_in_for_none_but_not_for_those_asked_for() {
        let mut store = RootCertStore::empty();
        platform_roots(CertificateResult::default(), None, &mut store).expect("stand in");
        assert!(store.len() > 100, "{}", store.len());
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            let mut store = RootCertStore::empty();
            let asked = Some((name, Path::new("/nowhere")));
            let refused = platform_roots(CertificateResult::default(), asked, &mut store);
            let refused = refused.expect_err("nobody is trusted instead");
            assert!(refused.starts_with(&format!("{name}: /nowhere holds no")), "{refused}");
            assert!(store.is_empty());
        }
    }
}
