#!/bin/sh
# Gets what the chart's tests need into .parts/ (git-ignored): helm, kubeconform, and the Kubernetes API's description, from which the tests
# make schemas for kubeconform. All three come as Go modules, so Go is needed. About 4 minutes the first time, seconds afterwards.
set -eu

HELM_VERSION=v3.22.0
KUBECONFORM_VERSION=v0.8.0
KUBERNETES_VERSION=v1.37.2

cd "$(dirname "$0")/.."
parts=$PWD/.parts

if ! command -v go >/dev/null; then
    echo "get-helm-tools: no Go here. Install Go, or put helm and kubeconform on PATH by other means." >&2
    exit 1
fi
mkdir -p "$parts/bin"

if ! command -v helm >/dev/null && [ ! -x "$parts/bin/helm" ]; then
    echo "get-helm-tools: building helm $HELM_VERSION into .parts/bin"
    GOBIN=$parts/bin go install "helm.sh/helm/v3/cmd/helm@$HELM_VERSION"
fi
if ! command -v kubeconform >/dev/null && [ ! -x "$parts/bin/kubeconform" ]; then
    echo "get-helm-tools: building kubeconform $KUBECONFORM_VERSION into .parts/bin"
    GOBIN=$parts/bin go install "github.com/yannh/kubeconform/cmd/kubeconform@$KUBECONFORM_VERSION"
fi
if [ ! -s "$parts/kubernetes-api.json" ]; then
    echo "get-helm-tools: fetching the API description of Kubernetes $KUBERNETES_VERSION into .parts (22 MB are loaded for it)"
    # Outside of any module, so that no go.mod is looked for.
    directory=$(cd / && go mod download -json "k8s.io/kubernetes@$KUBERNETES_VERSION" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
    cp "$directory/api/openapi-spec/swagger.json" "$parts/kubernetes-api.json.new"
    chmod u+w "$parts/kubernetes-api.json.new"
    mv "$parts/kubernetes-api.json.new" "$parts/kubernetes-api.json"
fi
