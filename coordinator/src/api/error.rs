//! What a refused request is answered with: a status and `{"errors": ["…"]}`, Flink's shape.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_machine::command::Rejection;
use holdfast_raft::{MembershipError, ProposeError};
use holdfast_sql::PlanError;
use serde_json::json;

/// Header on the answer of a coordinator that was taken for the leader and is not: the request certainly had no effect.
pub(crate) const NOT_LEADER: &str = "x-holdfast-not-leader";

/// Header on an answer that leaves open whether the request took effect.
pub(crate) const OUTCOME_UNKNOWN: &str = "x-holdfast-outcome-unknown";

/// A refusal.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    place: Option<(u32, u32)>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    NotLeader,
    OutcomeUnknown,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            place: None,
            kind: Kind::Plain,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub(crate) fn not_leader(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::NotLeader,
            ..Self::unavailable(message)
        }
    }

    pub(crate) fn outcome_unknown(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::OutcomeUnknown,
            ..Self::unavailable(message)
        }
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => {
                Self::not_leader("this coordinator does not lead; the request had no effect")
            }
            ProposeError::Busy => Self::unavailable(
                "the leader has as many pending writes as it takes; the request had no effect, try again",
            ),
            ProposeError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            ProposeError::Unknown(reason) => Self::outcome_unknown(format!(
                "the request may or may not have taken effect ({reason}); look before you repeat it, or repeat it with \
                 the same Idempotency-Key"
            )),
            ProposeError::Stopped(reason) => {
                Self::unavailable(format!("this coordinator is stopping or has failed: {reason}"))
            }
        }
    }
}

impl From<MembershipError> for ApiError {
    fn from(error: MembershipError) -> Self {
        let text = error.to_string();
        match error {
            MembershipError::NotLeader { .. } => Self::not_leader(text),
            MembershipError::Invalid(_) => Self::new(StatusCode::CONFLICT, text),
            MembershipError::Later(_) | MembershipError::Stopped(_) => Self::unavailable(text),
            MembershipError::Unknown(_) => Self::outcome_unknown(text),
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let status = match &rejection {
            Rejection::NotFound(_) => StatusCode::NOT_FOUND,
            Rejection::Limit(_) => StatusCode::TOO_MANY_REQUESTS,
            Rejection::Revision { .. } => StatusCode::PRECONDITION_FAILED,
            Rejection::StaleEpoch { .. }
            | Rejection::StaleAttempt { .. }
            | Rejection::Conflict(_)
            | Rejection::Forgotten { .. } => StatusCode::CONFLICT,
        };
        Self::new(status, rejection.to_string())
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        let place = (error.line > 0).then_some((error.line, error.column));
        Self {
            place,
            ..Self::bad_request(error.to_string())
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "errors": [self.message] });
        if let (Some((line, column)), Some(object)) = (self.place, body.as_object_mut()) {
            object.insert("line".to_owned(), line.into());
            object.insert("column".to_owned(), column.into());
        }
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        match self.kind {
            Kind::Plain => {}
            Kind::NotLeader => {
                headers.insert(NOT_LEADER, HeaderValue::from_static("1"));
            }
            Kind::OutcomeUnknown => {
                headers.insert(OUTCOME_UNKNOWN, HeaderValue::from_static("1"));
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_it_is_safe_to_repeat() {
        let response = ApiError::from(ProposeError::NotLeader { leader: None }).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(NOT_LEADER));
        let response = ApiError::from(ProposeError::Unknown("timeout".into())).into_response();
        assert!(response.headers().contains_key(OUTCOME_UNKNOWN));
        assert!(!response.headers().contains_key(NOT_LEADER));
        let response = ApiError::from(Rejection::Revision {
            expected: 1,
            current: 2,
        })
        .into_response();
        assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
    }
}
