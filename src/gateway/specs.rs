//! The commands of all roles of this build, and what the door needs to know of each.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config::Config;
use crate::node::registry;
use crate::role::{CommandSpec, RoleName};

/// A command as the door sees it.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// Its table entry.
    pub(super) command: CommandSpec,
    /// JSON Schema of its body.
    pub(super) body: Value,
    /// Name and JSON Schema of its result, where it is said what that is.
    pub(super) reply: Option<(String, Value)>,
}

impl Spec {
    fn new(command: CommandSpec) -> Self {
        let (_, body) = named((command.body)().to_value());
        let reply = command.reply.map(|reply| named(reply().to_value()));
        Self {
            command,
            body,
            reply,
        }
    }

    /// Entity and verb.
    pub(super) fn name(&self) -> (&'static str, &'static str) {
        // Every command's name is `entity.verb`: a test of the table holds that.
        self.command
            .name
            .split_once('.')
            .unwrap_or((self.command.name, ""))
    }

    /// The body's fields with their schemas.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        let properties = self.body.get("properties").and_then(Value::as_object);
        properties.into_iter().flat_map(Map::iter)
    }

    /// The field that names one entity: what `GET /v1/{entity}/{id}` puts the id into.
    pub(super) fn id_field(&self) -> Option<&str> {
        let (entity, _) = self.name();
        let own = format!("{entity}Id");
        let ids = || self.fields().map(|(name, _)| name.as_str());
        ids()
            .find(|name| *name == own)
            .or_else(|| ids().find(|name| name.ends_with("Id") && *name != "clientRequestId"))
            .or_else(|| ids().find(|name| ["configKey", "name"].contains(name)))
    }

    /// Whether it has a `GET` form: it reads, and every field is a word, a number or a flag.
    pub(super) fn readable(&self) -> bool {
        !self.command.mutates && self.fields().all(|(_, schema)| scalar(schema))
    }
}

/// Writes the schema that takes anything as `{}`: many tools do not know that `true` is one, too.
fn spell_out(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "properties" => {
                        let fields = value.as_object_mut().into_iter().flat_map(Map::values_mut);
                        fields.for_each(spell_out_one);
                    }
                    "items" => spell_out_one(value),
                    "default" | "const" | "enum" => {}
                    _ => spell_out(value),
                }
            }
        }
        Value::Array(parts) => parts.iter_mut().for_each(spell_out),
        _ => {}
    }
}

fn spell_out_one(schema: &mut Value) {
    if *schema == Value::Bool(true) {
        *schema = Value::Object(Map::new());
    }
    spell_out(schema);
}

/// A schema without what only a whole document has, by its title.
fn named(mut schema: Value) -> (String, Value) {
    spell_out(&mut schema);
    let title = schema.as_object_mut().and_then(|map| {
        map.remove("$schema");
        map.remove("title")
    });
    let title = title.as_ref().and_then(Value::as_str).unwrap_or_default();
    (title.to_owned(), schema)
}

/// The types that a schema allows, `null` left out.
pub(super) fn types_of(schema: &Value) -> Vec<&str> {
    let mut types: Vec<&str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for key in ["anyOf", "oneOf"] {
        for part in schema
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            types.extend(types_of(part));
        }
    }
    if types.is_empty() && (schema.get("enum").is_some() || schema.get("const").is_some()) {
        types.push("string");
    }
    types.retain(|name| *name != "null");
    types
}

fn scalar(schema: &Value) -> bool {
    let types = types_of(schema);
    !types.is_empty()
        && types
            .iter()
            .all(|name| ["string", "integer", "number", "boolean"].contains(name))
}

/// All commands, by name.
#[derive(Debug, Clone)]
pub(super) struct Specs(pub(super) BTreeMap<&'static str, Spec>);

impl Specs {
    pub(super) fn new(config: &Config) -> Self {
        let commands = RoleName::BUILT
            .into_iter()
            .filter_map(|role| registry::build(config, role))
            .flat_map(|role| role.commands());
        Self(
            commands
                .map(|command| (command.name, Spec::new(*command)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_an_entity_and_a_verb_and_has_an_object_for_a_body() {
        let specs = Specs::new(&Config::default());
        assert!(specs.0.len() > 30, "{}", specs.0.len());
        for spec in specs.0.values() {
            let (entity, verb) = spec.name();
            assert!(
                !entity.is_empty() && !verb.is_empty(),
                "{}",
                spec.command.name
            );
            assert_eq!(spec.body["type"], "object", "{}", spec.command.name);
            if verb == "get" {
                assert!(spec.id_field().is_some(), "{}", spec.command.name);
            }
        }
    }

    #[test]
    fn what_commands_answer_has_one_schema_per_name_and_none_has_none() {
        let specs = Specs::new(&Config::default());
        let mut seen: BTreeMap<String, Value> = BTreeMap::new();
        for spec in specs.0.values() {
            let reply = spec.reply.clone();
            let (name, schema) = reply.unwrap_or_else(|| panic!("{}", spec.command.name));
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(!name.is_empty() && name.chars().all(plain), "{name}");
            let before = seen.entry(name.clone()).or_insert_with(|| schema.clone());
            assert_eq!(*before, schema, "{name} of {}", spec.command.name);
        }
    }
}
