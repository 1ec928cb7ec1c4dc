//! Schemas of parts that our kinds share with NetworkPolicy, with limits where the API server's
//! own types have none: it reckons what its rules may cost from these.

use schemars::{Schema, json_schema};

use super::cluster_default_network_policy::ITEMS_MAX;

/// How many networks are taken out of one: more, and the server reckons its rule too dear.
const EXCEPT_MAX: usize = 30;

/// A label selector.
pub(super) fn label_selector(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that must be there, with these values.",
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63}
            },
            "matchExpressions": {
                "description": "What must hold of the labels besides, all of it.",
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "The key of a label.",
                            "type": "string",
                            "maxLength": 317
                        },
                        "operator": {
                            "description": "What must hold of that label.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"]
                        },
                        "values": {
                            "description": "The values that `In` and `NotIn` are about.",
                            "type": "array",
                            "maxItems": 50,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63}
                        }
                    },
                    "x-kubernetes-validations": [{
                        "rule": "self.operator in ['In', 'NotIn'] \
                                 == (has(self.values) && size(self.values) > 0)",
                        "message": "In and NotIn want values, Exists and DoesNotExist want none"
                    }]
                }
            }
        }
    })
}

/// A network and what is taken out of it.
pub(super) fn ip_block(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["cidr"],
        "properties": {
            "cidr": {
                "description": "The network, as `10.0.0.0/8`.",
                "type": "string",
                "maxLength": 43
            },
            "except": {
                "description": "Networks inside it that are taken out.",
                "type": "array",
                "maxItems": EXCEPT_MAX,
                "x-kubernetes-list-type": "atomic",
                "items": {"type": "string", "maxLength": 43}
            }
        },
        "x-kubernetes-validations": [
            {
                "rule": "isCIDR(self.cidr)",
                "message": "cidr must be a network such as 10.0.0.0/8 or fd00::/8; \
                            a single address is 10.0.0.1/32"
            },
            {
                "rule": "!has(self.except) || !isCIDR(self.cidr) || self.except.all(net, \
                         isCIDR(net) && cidr(self.cidr).containsCIDR(net) \
                         && cidr(net).prefixLength() > cidr(self.cidr).prefixLength())",
                "message": "each network of except must be inside cidr, and smaller"
            }
        ]
    })
}

/// The ports of a rule.
pub(super) fn ports(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": ITEMS_MAX,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "properties": {
                "protocol": {
                    "description": "The protocol, TCP when it is missing.",
                    "type": "string",
                    "enum": ["TCP", "UDP", "SCTP"]
                },
                "port": {
                    "description": "A number, or the name that containers give one of their \
                                    ports; every port of the protocol when it is missing.",
                    "x-kubernetes-int-or-string": true,
                    "minimum": 1,
                    "maximum": 65535,
                    "maxLength": 15,
                    "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
                },
                "endPort": {
                    "description": "The last port of a range that begins with the number `port`.",
                    "type": "integer",
                    "format": "int32",
                    "minimum": 1,
                    "maximum": 65535
                }
            },
            "x-kubernetes-validations": [{
                "rule": "!has(self.endPort) \
                         || (has(self.port) && type(self.port) == int && self.port <= self.endPort)",
                "message": "endPort wants a number as port, and must not be below it"
            }]
        }
    })
}
