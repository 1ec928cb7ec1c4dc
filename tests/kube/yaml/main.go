// yaml reads manifests as kubectl does, so that a test can compare our reader with it.
//
// Its input is a row of files: for each, the number of its bytes on a line, and the bytes. For each file it prints
// one line: a JSON list with one element for each document, {"value": …} or {"error": "…"}.
// The element {"stop": "…"} is the last one where kubectl reads no further. A file in which two keys of a mapping
// have the same text but different types is {"ambiguous": true} alone: its value differs from run to run.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	goyaml "go.yaml.in/yaml/v2"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

type document struct {
	Value     json.RawMessage `json:"value,omitempty"`
	Error     string          `json:"error,omitempty"`
	Stop      string          `json:"stop,omitempty"`
	Ambiguous bool            `json:"ambiguous,omitempty"`
}

func main() {
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for {
		var size int
		if _, err := fmt.Fscanf(in, "%d\n", &size); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			panic(err)
		}
		text := make([]byte, size)
		if _, err := io.ReadFull(in, text); err != nil {
			panic(err)
		}
		line, err := json.Marshal(read(text))
		if err != nil {
			panic(err)
		}
		out.Write(append(line, '\n'))
	}
}

// decode is what the FileVisitor of k8s.io/cli-runtime does.
func decode(file []byte) []byte {
	text, err := io.ReadAll(transform.NewReader(bytes.NewReader(file), unicode.BOMOverride(unicode.UTF8.NewDecoder())))
	if err != nil {
		panic(err)
	}
	return text
}

// read is what the StreamVisitor does, but goes on after a document that is not YAML.
func read(file []byte) []document {
	text := decode(file)
	if ambiguous(text) {
		return []document{{Ambiguous: true}}
	}
	documents := []document{}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		object := runtime.RawExtension{}
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return documents
		}
		var separator yaml.YAMLSyntaxError
		if err != nil && errors.As(err, &separator) && !strings.Contains(err.Error(), "invalid Yaml document separator") {
			documents = append(documents, document{Error: err.Error()})
			continue
		}
		if err != nil {
			return append(documents, document{Stop: err.Error()})
		}
		raw := bytes.TrimSpace(object.Raw)
		if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
			continue
		}
		documents = append(documents, document{Value: normal(raw)})
	}
}

// normal has the value again in Go's own spelling: the text of a JSON file is passed on as it is.
func normal(raw []byte) json.RawMessage {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		panic(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}

// ambiguous tells whether a mapping has the keys 1 and "1", say: which one becomes the key "1" of the JSON is left
// to the order of a Go map.
func ambiguous(text []byte) bool {
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		part, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return false
		}
		var value any
		if err == nil && goyaml.Unmarshal(part, &value) == nil && hasEqualKeys(value) {
			return true
		}
	}
}

func hasEqualKeys(value any) bool {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			if hasEqualKeys(item) {
				return true
			}
		}
	case map[any]any:
		seen := map[string]bool{}
		for key, item := range value {
			text := fmt.Sprint(key)
			if number, ok := key.(float64); ok {
				text = fmt.Sprint(float32(number))
			}
			text = strings.ToLower(strings.TrimLeft(text, "+"))
			if seen[text] || hasEqualKeys(item) {
				return true
			}
			seen[text] = true
		}
	}
	return false
}
