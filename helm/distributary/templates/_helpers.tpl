{{- define "distributary.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 47 characters: the longest suffix, "-bridge-internal", has 16, and a Service's name 63. */}}
{{- define "distributary.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 47 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Names are quoted throughout: a release may be called "y" or "1", which YAML takes for a boolean or a number. */}}

{{/* The helpers below take (list $ COMPONENT), with COMPONENT one of bridge, edge, redis, test, check. */}}

{{- define "distributary.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "distributary.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 | quote }}
{{- end -}}

{{- define "distributary.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "distributary.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "distributary" -}}
{{- $_ = set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ = set $own "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ = set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- toYaml (merge $own (default dict $root.Values.commonLabels)) -}}
{{- end -}}

{{/* Also takes (list $ COMPONENT SUFFIX): the suffix is part of the name only. */}}
{{- define "distributary.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "distributary.fullname" $root }}-{{ index . 1 }}{{ if gt (len .) 2 }}{{ index . 2 }}{{ end }}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "distributary.labels" . | nindent 2 }}
{{- end -}}

{{- define "distributary.image" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $image := (index $root.Values $component).image -}}
{{- $repository := $image.repository -}}
{{- if and $root.Values.image.registry (ne $component "redis") -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" $root.Values.image.registry) $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "distributary.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $account := (index $root.Values $component).serviceAccount -}}
{{- if $account.create -}}
{{- default (printf "%s-%s" (include "distributary.fullname" $root) $component) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* Labels of a pod. Without chart and version: those would make pods roll that did not change. */}}
{{- define "distributary.podLabels" -}}
{{- $root := index . 0 -}}
{{- $own := include "distributary.selector" . | fromYaml -}}
{{- $values := eq (index . 1) "check" | ternary $root.Values.bridge.checkRules (index $root.Values (index . 1)) -}}
{{- toYaml (merge $own (default dict $values.podLabels) (default dict $root.Values.commonLabels)) -}}
{{- end -}}

{{/* What the pod specs of all components share. No service links: a Service "edge" would put EDGE_PORT=tcp://... into the environment. */}}
{{- define "distributary.podSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
serviceAccountName: {{ include "distributary.serviceAccount" . | quote }}
{{ include "distributary.anyPodSpec" . }}
{{- end -}}

{{/* The same without the account, for a pod that runs before there is one. */}}
{{- define "distributary.anyPodSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $selector := dict "labelSelector" (dict "matchLabels" (include "distributary.selector" (list $root $component) | fromYaml)) }}
  {{- range . }}
  - {{- toYaml (merge (deepCopy .) $selector) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Probes by way of the internal port, the same for bridge and edge. */}}
{{- define "distributary.probes" -}}
startupProbe:
  httpGet: {path: /health/live, port: internal}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /health/live, port: internal}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /health/ready, port: internal}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* What lies beside each other in the ConfigMap of the rules, as far as it is given by values: name to text, in JSON. */}}
{{- define "distributary.rulesFiles" -}}
{{- $files := .Values.bridge.schemas | default dict | deepCopy -}}
{{- if not .Values.bridge.existingRulesConfigMap }}{{ $_ := set $files "rules.yaml" .Values.bridge.rules }}{{ end -}}
{{- toJson $files -}}
{{- end -}}

{{/* The folder of the rules: (list $ SUFFIX), with the suffix of the ConfigMap that has those of the values. One volume, so that a kubelet renews all at once. */}}
{{- define "distributary.rulesVolume" -}}
{{- $root := index . 0 -}}
- name: rules
  projected:
    sources:
      {{- if include "distributary.rulesFiles" $root | fromJson }}
      - configMap: {name: {{ include "distributary.fullname" $root }}-{{ index . 1 }}}
      {{- end }}
      {{- range $root.Values.bridge.existingSchemasConfigMaps }}
      - configMap:
          {{- toYaml . | nindent 10 }}
      {{- end }}
      {{- with $root.Values.bridge.existingRulesConfigMap }}
      - configMap: {name: {{ . | quote }}}
      {{- end }}
{{- end -}}

{{/* Name of the Secret that holds the bus's URLs, and the key of a component's own: (list $ COMPONENT). */}}
{{- define "distributary.busSecretRef" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := $root.Values -}}
{{- if $values.bus.existingSecret -}}
name: {{ $values.bus.existingSecret | quote }}
key: {{ index $values.bus (printf "%sKey" $component) | quote }}
{{- else -}}
name: {{ and $values.redis.enabled $values.redis.existingSecret | default (printf "%s-bus" (include "distributary.fullname" $root)) | quote }}
key: {{ $component }}-url
{{- end -}}
{{- end -}}

{{/* Part of a checksum: makes pods roll when an URL given by value changes. Random passwords are left out: they do not change. */}}
{{- define "distributary.busChecksum" -}}
{{- printf "%s %s %s" .Values.bus.url .Values.bus.edgeUrl (include "distributary.busSecretRef" (list . "edge")) | sha256sum | trunc 16 -}}
{{- end -}}

{{/* Whole numbers of a values file arrive as floating point, which would print 1000000 as 1e+06. */}}
{{- define "distributary.kafkaProperties" -}}
{{- range $key, $value := .Values.bridge.kafkaProperties }}
{{ $key }}={{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}
{{- end }}
{{- end -}}

{{/* The users of the trial Redis, without passwords; docs/operations.md shows the same for a Redis of one's own. */}}
{{- define "distributary.aclBridge" -}}
resetkeys ~d:* resetchannels &d:* +@all -@admin -@dangerous +info
{{- end -}}
{{- define "distributary.aclEdge" -}}
resetkeys %R~d:* resetchannels &d:* -@all +hello +auth +ping +select +info +quit +reset +subscribe +unsubscribe +psubscribe +punsubscribe +ssubscribe +sunsubscribe +cluster|slots +multi +exec +discard +get +mget +hget +hmget +hgetall +hlen +hscan +lrange +llen +exists
{{- end -}}

{{/* The ports of the bus as a list in JSON: those given, else those of the URLs, else 6379. */}}
{{- define "distributary.busPorts" -}}
{{- $ports := .Values.networkPolicy.bus.ports -}}
{{- if not $ports -}}
{{- range $url := compact (splitList "," (printf "%s,%s" .Values.bus.url .Values.bus.edgeUrl)) -}}
{{- $host := (urlParse $url).host -}}
{{- $ports = append $ports (int (regexFind ":[0-9]+$" $host | trimPrefix ":" | default "6379")) -}}
{{- end -}}
{{- end -}}
{{- default (list 6379) $ports | uniq | toJson -}}
{{- end -}}

{{/* Egress rule for DNS, the same for bridge and edge. */}}
{{- define "distributary.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns.to | nindent 4 }}
  ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{/* Egress rule for the bus, the same for bridge and edge. */}}
{{- define "distributary.busEgress" -}}
- to:
    {{- if .Values.redis.enabled }}
    - podSelector:
        matchLabels:
          {{- include "distributary.selector" (list . "redis") | nindent 10 }}
    {{- else }}
    {{- toYaml .Values.networkPolicy.bus.to | nindent 4 }}
    {{- end }}
  ports:
    {{- if .Values.redis.enabled }}
    - {protocol: TCP, port: 6379}
    {{- else }}
    {{- range include "distributary.busPorts" . | fromJsonArray }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
    {{- end }}
{{- end -}}

{{/* Ingress rules for an internal port: (list $ PORT COMPONENT). Only edges are asked by the test pod. */}}
{{- define "distributary.internalIngress" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.networkPolicy.internalFrom }}
- from:
    {{- toYaml . | nindent 4 }}
  ports:
    - {protocol: TCP, port: {{ index $ 1 }}}
{{- end }}
{{- if and $root.Values.tests.enabled (eq (index . 2) "edge") }}
- from:
    - podSelector:
        matchLabels:
          {{- include "distributary.selector" (list $root "test") | nindent 10 }}
  ports:
    - {protocol: TCP, port: {{ index . 1 }}}
{{- end }}
{{- end -}}

{{- define "distributary.redisConf" -}}
bind * -::*
port 6379
# Off, because the users' passwords protect it and no user is without one.
protected-mode no
aclfile /etc/redis-users/users.acl
save ""
appendonly no
dir /tmp
maxmemory {{ .Values.redis.maxmemory }}
maxmemory-policy noeviction
maxclients {{ int64 .Values.redis.maxclients }}
tcp-keepalive 60
{{- with .Values.redis.extraConfig }}
{{ . }}
{{- end }}
{{- end -}}
