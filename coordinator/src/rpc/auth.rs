//! Who may call what: one table of methods and roles, default deny, and the layer that enforces it before any
//! handler runs. Knows methods by name; refuses to know requests. Object checks (whose run, whose attempt) are the
//! handlers'.

use crate::rpc::accept::Peer;
use crate::rpc::status::refuse;
use http::{Request, Response};
use orch_certs::{Identity, Role};
use orch_core::ids::TenantId;
use orch_proto::codes::ErrorCode;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

/// The tenant of whoever names none; the only one so far.
pub const DEFAULT_TENANT: TenantId = TenantId(1);
/// Its name in certificates.
pub const DEFAULT_TENANT_NAME: &str = "default";

const PEOPLE: &[Role] = &[Role::Client, Role::Admin];
const AGENTS: &[Role] = &[Role::Agent];
const ALL: &[Role] = &[Role::Client, Role::Agent, Role::Admin];
const ADMINS: &[Role] = &[Role::Admin];

/// Roles that may call a method. A method that is not here may be called by nobody.
pub const METHOD_ROLES: &[(&str, &[Role])] = &[
    ("/orch.v1.RunService/SubmitRun", PEOPLE),
    ("/orch.v1.RunService/BeginSubmission", PEOPLE),
    ("/orch.v1.RunService/AppendSubmission", PEOPLE),
    ("/orch.v1.RunService/SealSubmission", PEOPLE),
    ("/orch.v1.RunService/GetRun", PEOPLE),
    ("/orch.v1.RunService/ListRuns", PEOPLE),
    ("/orch.v1.RunService/GetTask", PEOPLE),
    ("/orch.v1.RunService/ListTasks", PEOPLE),
    ("/orch.v1.RunService/WatchRuns", PEOPLE),
    ("/orch.v1.RunService/CancelRun", PEOPLE),
    ("/orch.v1.RunService/RetryRun", PEOPLE),
    ("/orch.v1.RunService/ExplainTask", PEOPLE),
    ("/orch.v1.RunService/ListDeadTasks", PEOPLE),
    ("/orch.v1.RunService/GetPlan", PEOPLE),
    ("/orch.v1.RunService/DecidePlan", PEOPLE),
    ("/orch.v1.RunService/ListArtifacts", PEOPLE),
    ("/orch.v1.WorkflowService/ListWorkflows", PEOPLE),
    ("/orch.v1.WorkflowService/GetWorkflow", PEOPLE),
    ("/orch.v1.WorkflowService/CompileWorkflow", PEOPLE),
    ("/orch.v1.BlobService/FindBlob", AGENTS),
    ("/orch.v1.BlobService/PutBlob", AGENTS),
    ("/orch.v1.BlobService/GetBlob", ALL),
    ("/orch.v1.TranscriptService/AppendTranscript", AGENTS),
    ("/orch.v1.TranscriptService/ReadTranscript", PEOPLE),
    ("/orch.v1.AgentService/Session", AGENTS),
    ("/orch.v1.AdminService/GetStatus", PEOPLE),
    ("/orch.v1.AdminService/ListAgents", PEOPLE),
    ("/orch.v1.AdminService/ListWorkers", PEOPLE),
    ("/orch.v1.AdminService/GetAgent", PEOPLE),
    ("/orch.v1.AdminService/DrainAgent", ADMINS),
    ("/orch.v1.AdminService/ResumeAgent", ADMINS),
    ("/orch.v1.AdminService/ForgetAgent", ADMINS),
    ("/orch.v1.AdminService/LabelAgent", ADMINS),
    ("/orch.v1.AdminService/GetWorker", PEOPLE),
    ("/orch.v1.AdminService/ValidateWorkers", PEOPLE),
    ("/orch.v1.AdminService/ReloadWorkers", ADMINS),
    ("/orch.v1.AdminService/GetStorage", PEOPLE),
    ("/orch.v1.AdminService/Backup", ADMINS),
    ("/orch.v1.AdminService/Restore", ADMINS),
    ("/orch.v1.AdminService/CompactStore", ADMINS),
    ("/orch.v1.CostService/QueryCosts", PEOPLE),
    ("/orch.v1.CostService/ListBudgets", PEOPLE),
    ("/orch.v1.CostService/SetBudget", ADMINS),
    ("/orch.v1.CostService/RemoveBudget", ADMINS),
    ("/orch.v1.CostService/GetLimits", PEOPLE),
    ("/grpc.health.v1.Health/Check", ALL),
    ("/grpc.health.v1.Health/List", ALL),
    ("/grpc.health.v1.Health/Watch", ALL),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ADMINS),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ADMINS),
];

/// The caller of a request that passed the layer.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Identity of its certificate.
    pub identity: Identity,
    /// Its tenant.
    pub tenant: TenantId,
}

impl Caller {
    /// The caller of `request`.
    ///
    /// # Errors
    /// `NO_CERTIFICATE` when the layer did not run: the server is wired wrongly, and nobody gets in.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>();
        caller.cloned().ok_or_else(|| refuse(ErrorCode::NoCertificate, "the request has no identity"))
    }

    /// `role/tenant/name`, as runs and audits keep it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}/{}", self.identity.role(), self.identity.tenant(), self.identity.name())
    }
}

/// Whether `identity`, of the coordinator's own trust domain `domain`, may call `method`.
///
/// # Errors
/// The typed refusal to send.
pub fn authorise(peer: Option<&Peer>, domain: &str, method: &str) -> Result<Caller, Status> {
    let peer =
        peer.ok_or_else(|| refuse(ErrorCode::NoCertificate, "the connection has no client certificate"))?;
    let identity =
        peer.identity.clone().map_err(|error| refuse(ErrorCode::InvalidIdentity, error.to_string()))?;
    if identity.domain() != domain {
        let message =
            format!("the certificate is of trust domain `{}`, this cluster is `{domain}`", identity.domain());
        return Err(refuse(ErrorCode::InvalidIdentity, message));
    }
    if identity.tenant() != DEFAULT_TENANT_NAME {
        let message =
            format!("tenant `{}` does not exist here; only `{DEFAULT_TENANT_NAME}` does", identity.tenant());
        return Err(refuse(ErrorCode::InvalidIdentity, message));
    }
    let allowed = METHOD_ROLES.iter().find(|(name, _)| *name == method).map_or(&[][..], |(_, roles)| roles);
    if allowed.contains(&identity.role()) {
        return Ok(Caller { identity, tenant: DEFAULT_TENANT });
    }
    let needed = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    let needed = if needed.is_empty() { "no role at all".to_owned() } else { format!("role {needed}") };
    let message = format!("{method} is for {needed}; this certificate is of role {}", identity.role());
    Err(refuse(ErrorCode::RoleNotAllowed, message))
}

/// Refuses requests that [`authorise`] refuses; puts a [`Caller`] into those that pass.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    domain: Arc<str>,
}

impl AuthLayer {
    /// For a coordinator of trust domain `domain`.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        Self { domain: Arc::from(domain) }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Auth { inner, domain: Arc::clone(&self.domain) }
    }
}

/// The service made by [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct Auth<S> {
    inner: S,
    domain: Arc<str>,
}

/// Either the inner service's answer or a refusal.
#[derive(Debug)]
pub enum AuthFuture<F> {
    /// Passed.
    Inner(Pin<Box<F>>),
    /// Refused.
    Refused(Ready<Response<Body>>),
}

impl<F, E> Future for AuthFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Inner(inner) => inner.as_mut().poll(cx),
            Self::Refused(refused) => Pin::new(refused).poll(cx).map(Ok),
        }
    }
}

impl<S, B> Service<Request<B>> for Auth<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = AuthFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        match authorise(peer.as_deref(), &self.domain, request.uri().path()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                AuthFuture::Inner(Box::pin(self.inner.call(request)))
            }
            Err(status) => {
                tracing::info!(
                    method = request.uri().path(),
                    peer = %peer.map_or_else(String::new, |peer| peer.address.to_string()),
                    reason = status.message(),
                    "request refused"
                );
                AuthFuture::Refused(ready(status.into_http()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::FILE_DESCRIPTOR_SET;
    use prost::Message as _;

    fn peer(role: Role, domain: &str, tenant: &str) -> Peer {
        Peer {
            address: ([127, 0, 0, 1], 1).into(),
            identity: Ok(Identity::new(domain, role, tenant, "someone").unwrap()),
        }
    }

    fn methods() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        set.file
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file, service)))
            .flat_map(|(file, service)| {
                service
                    .method
                    .iter()
                    .map(move |method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
            })
            .collect()
    }

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let methods = methods();
        for method in &methods {
            assert!(METHOD_ROLES.iter().any(|(name, _)| name == method), "{method} has no row");
        }
        for (name, roles) in METHOD_ROLES {
            assert!(
                name.starts_with("/grpc.") || methods.iter().any(|method| method == name),
                "{name} is no method"
            );
            assert!(!roles.is_empty(), "{name} is for nobody: leave the row out");
        }
    }

    #[test]
    fn every_role_gets_what_the_table_says_and_nothing_else() {
        for (method, roles) in METHOD_ROLES {
            for role in Role::ALL {
                let answer = authorise(Some(&peer(role, "orch.local", "default")), "orch.local", method);
                match (answer, roles.contains(&role)) {
                    (Ok(caller), true) => assert_eq!(caller.identity.role(), role),
                    (Err(status), false) => assert_eq!(status.code(), tonic::Code::PermissionDenied),
                    (answer, expected) => {
                        panic!("{method} for {role}: {answer:?}, expected allowed = {expected}")
                    }
                }
            }
            assert_eq!(
                authorise(None, "orch.local", method).unwrap_err().code(),
                tonic::Code::Unauthenticated
            );
        }
    }

    #[test]
    fn unknown_methods_foreign_domains_and_tenants_are_refused() {
        let admin = peer(Role::Admin, "orch.local", "default");
        assert!(authorise(Some(&admin), "orch.local", "/orch.v1.RunService/Nothing").is_err());
        let method = METHOD_ROLES[0].0;
        for stranger in [peer(Role::Admin, "other.local", "default"), peer(Role::Admin, "orch.local", "acme")]
        {
            let status = authorise(Some(&stranger), "orch.local", method).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
        }
    }
}
