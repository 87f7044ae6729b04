//! One operation of the API as its document describes it: what goes in, what comes out, how it is refused.

use axum::http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

/// Writes the schema of a type, and leaves those that it refers to with the generator.
type Describe = fn(&mut SchemaGenerator) -> Schema;

/// What an operation sends or takes.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// No body.
    Nothing,
    /// `{"success": true, "data": …}`.
    One(Describe),
    /// `{"success": true, "data": […], "total": …, "next_cursor": …}`.
    Page(Describe),
    /// The type as it is, in JSON.
    Bare(Describe),
    /// Something else than JSON, by its media type.
    Bytes(&'static str),
}

/// One operation.
pub(crate) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Option<Describe>,
    pub(super) is_paged: bool,
    pub(super) is_versioned: bool,
    pub(super) is_conditional: bool,
    pub(super) is_for_anyone: bool,
    pub(super) body: Content,
    pub(super) status: StatusCode,
    pub(super) answer: Content,
    /// Further answers with a body like `answer`, or none.
    pub(super) also: Vec<(StatusCode, Content)>,
    /// Refusals beyond those that follow from the rest.
    pub(super) refusals: Vec<StatusCode>,
}

impl Operation {
    /// `method` on `path`, whose parameters are in braces; `summary` is one line for people.
    pub(super) fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            query: None,
            is_paged: false,
            is_versioned: false,
            is_conditional: false,
            is_for_anyone: false,
            body: Content::Nothing,
            status: StatusCode::OK,
            answer: Content::Nothing,
            also: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Takes the fields of `T` as parameters of the query.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// Takes a `T` in JSON.
    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Content::Bare(|schemas| schemas.subschema_for::<T>());
        self
    }

    /// Takes bytes of any kind.
    pub(super) fn takes_bytes(mut self) -> Self {
        self.body = Content::Bytes("application/octet-stream");
        self
    }

    /// Answers 200 with a `T`.
    pub(super) fn one<T: JsonSchema>(mut self) -> Self {
        self.answer = Content::One(|schemas| schemas.subschema_for::<T>());
        self
    }

    /// Answers 201 with a `T`.
    pub(super) fn created<T: JsonSchema>(self) -> Self {
        Self { status: StatusCode::CREATED, ..self.one::<T>() }
    }

    /// Answers 200 with a part of a list of `T`, as `limit` and `cursor` say.
    pub(super) fn page<T: JsonSchema>(mut self) -> Self {
        self.answer = Content::Page(|schemas| schemas.subschema_for::<T>());
        self.paged()
    }

    /// Answers 200 with all of a short list of `T`.
    pub(super) fn page_of_all<T: JsonSchema>(mut self) -> Self {
        self.answer = Content::Page(|schemas| schemas.subschema_for::<T>());
        self
    }

    /// Answers 200 with a `T` that is not wrapped.
    pub(super) fn bare<T: JsonSchema>(mut self) -> Self {
        self.answer = Content::Bare(|schemas| schemas.subschema_for::<T>());
        self
    }

    /// Takes `limit` and `cursor`.
    pub(super) fn paged(mut self) -> Self {
        self.is_paged = true;
        self
    }

    /// Answers 200 with something else than JSON.
    pub(super) fn bytes(mut self, media_type: &'static str) -> Self {
        self.answer = Content::Bytes(media_type);
        self
    }

    /// Answers `status` too, with the same body.
    pub(super) fn or(mut self, status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status of the table");
        self.also.push((status, self.answer));
        self
    }

    /// Answers `status` too, without body.
    pub(super) fn or_empty(mut self, status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status of the table");
        self.also.push((status, Content::Nothing));
        self
    }

    /// Obeys `Range` and the conditions on entity tags.
    pub(super) fn conditional(mut self) -> Self {
        self.is_conditional = true;
        self
    }

    /// Is there for everybody, though others of the path are not.
    pub(super) fn for_anyone(mut self) -> Self {
        self.is_for_anyone = true;
        self
    }

    /// Obeys `If-Match`.
    pub(super) fn versioned(mut self) -> Self {
        self.is_versioned = true;
        self
    }

    /// Refuses with `status` for a reason of its own.
    pub(super) fn refuses(mut self, status: u16) -> Self {
        self.refusals.push(StatusCode::from_u16(status).expect("a status of the table"));
        self
    }

    /// The names in braces.
    pub(super) fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        let names = self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        names.map(|name| name.trim_start_matches('*'))
    }
}

impl Content {
    /// The `content` of a request or a response; none without body.
    pub(super) fn describe(self, schemas: &mut SchemaGenerator) -> Option<Value> {
        let json_of = |schema: Value| Some(json!({"application/json": {"schema": schema}}));
        match self {
            Self::Nothing => None,
            Self::Bare(describe) => json_of(describe(schemas).into()),
            Self::One(describe) => json_of(json!({
                "type": "object",
                "required": ["success", "data"],
                "properties": {"success": {"const": true}, "data": describe(schemas)},
            })),
            Self::Page(describe) => json_of(json!({
                "type": "object",
                "required": ["success", "data", "total"],
                "properties": {
                    "success": {"const": true},
                    "data": {"type": "array", "items": describe(schemas)},
                    "total": {"type": "integer", "minimum": 0},
                    "next_cursor": {"type": "string"},
                },
            })),
            Self::Bytes(media_type) => {
                Some(json!({media_type: {"schema": {"type": "string", "format": "binary"}}}))
            }
        }
    }
}
