//! Schemas of parts that our kinds share with NetworkPolicy, with limits where the API server's
//! own types have none: it reckons what its rules may cost from these.

use schemars::{Schema, json_schema};

use super::cluster_default_network_policy::ITEMS_MAX;

/// How many networks are taken out of one: more, and the server reckons its rule too dear.
const EXCEPT_MAX: usize = 30;

/// The key of a label, with or without a prefix. How long each part may be, conversion says.
const LABEL_KEY: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
                         [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// The value of a label, which may be empty.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// A label selector. One that no label can match is refused: as a subject, conversion could only take
/// it for one that selects everything. So is a label without a value: the server would drop its key
/// as well, were it not nullable, and kubectl does, which leaves no label.
pub(super) fn label_selector(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that must be there, with these values.",
                "type": "object",
                "minProperties": 1,
                "maxProperties": 32,
                "additionalProperties": {
                    "type": "string",
                    "maxLength": 63,
                    "pattern": LABEL_VALUE,
                    "nullable": true
                },
                "x-kubernetes-validations": [
                    {
                        "rule": "self.all(key, type(self[key]) == string)",
                        "message": "a label wants a value: write one, or \"\" for the empty one; \
                                    matchExpressions with Exists wants none"
                    },
                    {
                        "rule": format!("self.all(key, key.matches('{LABEL_KEY}'))"),
                        "message": "the key of a label is at most 63 letters, digits and -_. \
                                    between them, perhaps behind a prefix such as example.com/"
                    }
                ]
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
                            "maxLength": 317,
                            "pattern": LABEL_KEY
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
                            "items": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE}
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
                    "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"
                },
                "endPort": {
                    "description": "The last port of a range that begins with the number `port`.",
                    "type": "integer",
                    "format": "int32",
                    "minimum": 1,
                    "maximum": 65535
                }
            },
            "x-kubernetes-validations": [
                {
                    "rule": "!has(self.endPort) \
                             || (has(self.port) && type(self.port) == int \
                                 && self.port <= self.endPort)",
                    "message": "endPort wants a number as port, and must not be below it"
                },
                {
                    "rule": "!has(self.port) || type(self.port) != string \
                             || self.port.matches('[a-z]')",
                    "message": "the name of a port has a letter; a number is written without quotes"
                }
            ]
        }
    })
}
