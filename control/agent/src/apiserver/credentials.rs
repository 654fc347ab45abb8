//! Who we are to the apiserver, and whom we believe: from a kubeconfig or the pod's service account, read again when a file changes.
//!
//! Tokens of service accounts are replaced every hour, certificates of nodes every few months; the files change under us.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use kube::Config;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tower::util::{BoxCloneSyncService, ServiceExt};
use tower::{BoxError, Layer, service_fn};

use super::endpoint::Endpoint;

/// Where Kubernetes mounts the service account of a pod.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How often files are looked at, at most; a refused token looks at once.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Kubeconfig(PathBuf),
    /// A folder with `token` and `ca.crt`.
    ServiceAccount(PathBuf),
}

/// Signs a request: adds its headers. What comes back is the request, in the response that kube's layers insist on.
type Signer = BoxCloneSyncService<Request<Body>, Response<Request<Body>>, BoxError>;

/// What the files said when they were read last.
pub struct Loaded {
    /// Whom to believe, and our certificate if we have one.
    pub tls: Arc<ClientConfig>,
    /// Of the configuration, if it names one.
    pub server_name: Option<String>,
    /// The server that the kubeconfig names.
    pub server: Option<Endpoint>,
    /// Grows when `tls` becomes another: connections made before are of yesterday.
    pub generation: u64,
    signer: Signer,
    /// From a file.
    token: Option<HeaderValue>,
    files: Vec<(PathBuf, Option<Stamp>)>,
    token_file: Option<(PathBuf, Option<Stamp>)>,
}

/// Tells whether a file was replaced or written.
type Stamp = (u64, u64, SystemTime);

/// Credentials that follow their files.
pub struct Credentials {
    origin: Origin,
    state: Mutex<State>,
}

struct State {
    loaded: Arc<Loaded>,
    looked: Instant,
    /// Why the files cannot be read now; what was read last counts.
    problem: Option<String>,
}

impl Credentials {
    /// Reads everything once.
    ///
    /// # Errors
    /// A file is missing or wrong: which, and what to do.
    pub async fn load(origin: Origin) -> anyhow::Result<Credentials> {
        let loaded = Arc::new(Loaded::read(&origin, 0).await?);
        Ok(Credentials { origin, state: Mutex::new(State { loaded, looked: Instant::now(), problem: None }) })
    }

    /// What counts now. Looks at the files if that was long ago, or `at_once`.
    pub async fn current(&self, at_once: bool) -> Arc<Loaded> {
        let before = {
            let mut state = self.lock();
            if !at_once && state.looked.elapsed() < LOOK_EVERY {
                return Arc::clone(&state.loaded);
            }
            state.looked = Instant::now();
            Arc::clone(&state.loaded)
        };
        let fresh = before.refreshed(&self.origin, at_once).await;
        let mut state = self.lock();
        match fresh {
            Ok(None) => state.problem = None,
            Ok(Some(fresh)) => {
                tracing::info!("credentials have changed and are read again");
                state.loaded = Arc::new(fresh);
                state.problem = None;
            }
            Err(error) => state.problem = Some(format!("{error:#}; what was read last is used")),
        }
        Arc::clone(&state.loaded)
    }

    /// Why the files cannot be read now.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loaded {
    async fn read(origin: &Origin, generation: u64) -> anyhow::Result<Loaded> {
        let (mut config, mut files) = match origin {
            Origin::Kubeconfig(path) => kubeconfig(path).await?,
            Origin::ServiceAccount(dir) => service_account(dir)?,
        };
        // kube reads a token's file once a minute; a token that was revoked must be replaced at once.
        let token_file = config.auth_info.token_file.take().map(PathBuf::from);
        let token = token_file.as_deref().map(read_token).transpose()?;
        let signer = signer(&config).context("the credentials cannot be used")?;
        let mut tls = config.rustls_client_config().context("the certificates cannot be used")?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        files.sort();
        Ok(Loaded {
            tls: Arc::new(tls),
            server: config.cluster_url.to_string().parse().ok(),
            server_name: config.tls_server_name,
            generation,
            signer,
            token,
            files: files.into_iter().map(|path| (path.clone(), stamp(&path))).collect(),
            token_file: token_file.map(|path| (path.clone(), stamp(&path))),
        })
    }

    /// The same read again, if a file has changed.
    async fn refreshed(&self, origin: &Origin, at_once: bool) -> anyhow::Result<Option<Loaded>> {
        if self.files.iter().any(|(path, before)| stamp(path) != *before) {
            return Loaded::read(origin, self.generation + 1).await.map(Some);
        }
        let Some((path, before)) = &self.token_file else { return Ok(None) };
        let now = stamp(path);
        if now == *before && !at_once {
            return Ok(None);
        }
        let token = Some(read_token(path)?);
        if token == self.token && now == *before {
            return Ok(None);
        }
        Ok(Some(Loaded {
            tls: Arc::clone(&self.tls),
            server_name: self.server_name.clone(),
            server: self.server.clone(),
            generation: self.generation,
            signer: self.signer.clone(),
            token,
            files: self.files.clone(),
            token_file: Some((path.clone(), now)),
        }))
    }

    /// Adds the headers that say who we are.
    ///
    /// # Errors
    /// A plugin of the kubeconfig fails.
    pub async fn sign(&self, request: Request<Body>) -> Result<Request<Body>, BoxError> {
        let mut request = self.signer.clone().oneshot(request).await?.into_body();
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        Ok(request)
    }
}

/// kube's own layers, over a service that does nothing: they know basic authentication, plugins and impersonation.
fn signer(config: &Config) -> anyhow::Result<Signer> {
    let nothing = service_fn(|request: Request<Body>| std::future::ready(Ok::<_, BoxError>(Response::new(request))));
    let extra = config.extra_headers_layer()?;
    Ok(match config.auth_layer()? {
        Some(auth) => BoxCloneSyncService::new(extra.layer(auth.layer(nothing)).map_err(Into::into)),
        None => BoxCloneSyncService::new(extra.layer(nothing)),
    })
}

/// The configuration and the files that it stands in.
async fn kubeconfig(path: &Path) -> anyhow::Result<(Config, Vec<PathBuf>)> {
    let what = || format!("kubeconfig {}", path.display());
    let parsed = Kubeconfig::read_from(path).with_context(what)?;
    let config = Config::from_custom_kubeconfig(parsed.clone(), &KubeConfigOptions::default()).await.with_context(what)?;
    let mut files = vec![path.to_owned()];
    files.extend(parsed.clusters.iter().filter_map(|named| named.cluster.as_ref()?.certificate_authority.clone()).map(PathBuf::from));
    let users = parsed.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    for file in users.flat_map(|user| [&user.client_certificate, &user.client_key]).flatten() {
        files.push(PathBuf::from(file));
    }
    Ok((config, files))
}

/// As client-go does in a pod.
fn service_account(dir: &Path) -> anyhow::Result<(Config, Vec<PathBuf>)> {
    let (ca, token) = (dir.join("ca.crt"), dir.join("token"));
    let remedy = "run in a pod with a service account, or give --kubeconfig FILE";
    let certificates = CertificateDer::pem_file_iter(&ca).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.with_context(|| format!("cannot read the cluster's certificates {}: {remedy}", ca.display()))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate", ca.display());
    }
    // The server is chosen elsewhere.
    let mut config = Config::new(http::Uri::from_static("https://kubernetes.default.svc"));
    config.root_cert = Some(certificates.iter().map(|certificate| certificate.as_ref().to_vec()).collect());
    config.auth_info.token_file = Some(token.display().to_string());
    Ok((config, vec![ca]))
}

fn read_token(path: &Path) -> anyhow::Result<HeaderValue> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the token {}", path.display()))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
        .with_context(|| format!("the token {} has characters that no header can have", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.modified().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = include_str!("testdata/ca.crt");

    async fn header(credentials: &Credentials, at_once: bool) -> String {
        let request = credentials.current(at_once).await.sign(Request::new(Body::empty())).await.unwrap();
        request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_token_that_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), CA).unwrap();
        assert!(
            Credentials::load(Origin::ServiceAccount(dir.path().into())).await.is_err_and(|error| format!("{error:#}").contains("token"))
        );
        std::fs::write(dir.path().join("token"), "one\n").unwrap();
        let credentials = Credentials::load(Origin::ServiceAccount(dir.path().into())).await.unwrap();
        assert_eq!(header(&credentials, false).await, "Bearer one");
        std::fs::write(dir.path().join("new"), "two").unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("token")).unwrap();
        assert_eq!(header(&credentials, true).await, "Bearer two");
        let generation = credentials.current(true).await.generation;
        std::fs::remove_file(dir.path().join("token")).unwrap();
        assert_eq!(header(&credentials, true).await, "Bearer two", "the last one counts");
        assert!(credentials.problem().unwrap().contains("token"));
        std::fs::write(dir.path().join("token"), "three").unwrap();
        assert_eq!(header(&credentials, true).await, "Bearer three");
        assert_eq!(credentials.problem(), None);
        assert_eq!(credentials.current(true).await.generation, generation, "connections stay");
        std::fs::write(dir.path().join("ca.crt"), format!("{CA}\n{CA}")).unwrap();
        assert_eq!(credentials.current(true).await.generation, generation + 1, "other certificates, other connections");
    }

    #[tokio::test]
    async fn a_kubeconfig() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(dir.path().join("ca.crt"), CA).unwrap();
        let yaml = "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n\
                    clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443', certificate-authority: ca.crt, tls-server-name: api}}]\n\
                    users: [{name: u, user: {token: secret}}]\n";
        std::fs::write(&path, yaml).unwrap();
        let credentials = Credentials::load(Origin::Kubeconfig(path.clone())).await.unwrap();
        let loaded = credentials.current(false).await;
        assert_eq!(loaded.server.as_ref().unwrap().to_string(), "https://192.0.2.1:6443");
        assert_eq!(loaded.server_name.as_deref(), Some("api"));
        assert_eq!(header(&credentials, false).await, "Bearer secret");
        std::fs::write(&path, "nonsense: [").unwrap();
        assert_eq!(header(&credentials, true).await, "Bearer secret", "the last good one counts");
        assert!(credentials.problem().unwrap().contains("kubeconfig"));
        let missing = Credentials::load(Origin::Kubeconfig(dir.path().join("none"))).await;
        assert!(missing.is_err_and(|error| format!("{error:#}").contains("none")));
    }
}
