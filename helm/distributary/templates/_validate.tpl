{{/* What a schema cannot say. Every problem is reported, not only the first, each with what to do. */}}
{{- define "distributary.validate" -}}
{{- $problems := list -}}
{{- $bridge := .Values.bridge -}}
{{- $bus := .Values.bus -}}
{{- $policy := .Values.networkPolicy -}}

{{- if not (regexMatch "^[a-z]" (include "distributary.fullname" .)) -}}
{{- $problems = append $problems (printf "the name %q does not begin with a letter, as names of Services must: choose another release name, or set fullnameOverride" (include "distributary.fullname" .)) -}}
{{- end -}}
{{- if not $bridge.bootstrapServers -}}
{{- $problems = append $problems "bridge.bootstrapServers is missing: name the Kafka brokers, such as --set bridge.bootstrapServers=kafka.kafka.svc:9092" -}}
{{- end -}}

{{- if and (not $bridge.rules) (not $bridge.existingRulesConfigMap) -}}
{{- $problems = append $problems "bridge.rules is missing: give your rules file by --set-file bridge.rules=rules.yaml, or a ConfigMap by bridge.existingRulesConfigMap" -}}
{{- end -}}
{{- if and $bridge.rules $bridge.existingRulesConfigMap -}}
{{- $problems = append $problems "bridge.rules and bridge.existingRulesConfigMap are both given: leave one of them out" -}}
{{- end -}}
{{- if hasKey (default dict $bridge.schemas) "rules.yaml" -}}
{{- $problems = append $problems "bridge.schemas.rules.yaml is the name of the rules: give them by bridge.rules" -}}
{{- end -}}
{{- range $name, $_ := $bridge.kafkaProperties -}}
{{- if and $bridge.existingKafkaPropertiesSecret (regexMatch "password|secret|token|jaas|key[.]pem|oauthbearer[.]config" $name) -}}
{{- $problems = append $problems (printf "bridge.kafkaProperties has %s beside bridge.existingKafkaPropertiesSecret, where it would be shown: put it into that Secret" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey (default dict $bridge.kafkaProperties) "group.instance.id") (gt (int $bridge.replicas) 1) -}}
{{- $problems = append $problems "bridge.kafkaProperties has group.instance.id with more than one replica: they would throw each other out of the group" -}}
{{- end -}}

{{- $buses := list -}}
{{- if .Values.redis.enabled }}{{ $buses = append $buses "redis.enabled" }}{{ end -}}
{{- if $bus.url }}{{ $buses = append $buses "bus.url" }}{{ end -}}
{{- if $bus.existingSecret }}{{ $buses = append $buses "bus.existingSecret" }}{{ end -}}
{{- if not $buses -}}
{{- $problems = append $problems "no bus: set redis.enabled=true for a trial, or bus.url (or bus.existingSecret) to a Redis of your own" -}}
{{- else if gt (len $buses) 1 -}}
{{- $problems = append $problems (printf "more than one bus: %s are given; leave one" (join " and " $buses)) -}}
{{- end -}}
{{- if and $bus.edgeUrl (not $bus.url) -}}
{{- $problems = append $problems "bus.edgeUrl needs bus.url: it is the same bus as the edges' own user" -}}
{{- end -}}

{{- if and .Values.edge.namespaces .Values.edge.existingNamespacesConfigMap -}}
{{- $problems = append $problems "edge.namespaces and edge.existingNamespacesConfigMap are both given: leave one of them out" -}}
{{- end -}}
{{- if and .Values.edge.ingress.enabled (not .Values.edge.ingress.hosts) -}}
{{- $problems = append $problems "edge.ingress.hosts is missing: name a host, such as --set edge.ingress.hosts[0].host=live.example.com" -}}
{{- end -}}
{{- if and .Values.edge.autoscaling.enabled (gt (int .Values.edge.autoscaling.minReplicas) (int .Values.edge.autoscaling.maxReplicas)) -}}
{{- $problems = append $problems "edge.autoscaling.minReplicas is larger than edge.autoscaling.maxReplicas" -}}
{{- end -}}
{{- if eq (int .Values.edge.port) (int .Values.edge.internalPort) -}}
{{- $problems = append $problems "edge.port and edge.internalPort are the same: the internal port must not be the public one" -}}
{{- end -}}
{{- if and (eq (toString .Values.edge.maxSurge) "0") (eq (toString .Values.edge.maxUnavailable) "0") -}}
{{- $problems = append $problems "edge.maxSurge and edge.maxUnavailable are both 0: no update could ever proceed" -}}
{{- end -}}

{{- if $policy.enabled -}}
{{- if and (or $bus.url $bus.existingSecret) (not $policy.bus.to) -}}
{{- $problems = append $problems "networkPolicy.bus.to is missing: say where your bus is, such as [{ipBlock: {cidr: 10.0.3.7/32}}], because the edges are let to it, to DNS, and nowhere else (or set networkPolicy.enabled=false)" -}}
{{- end -}}
{{- range splitList "," $bridge.bootstrapServers -}}
{{- $port := int (regexFind "[0-9]+$" .) -}}
{{- $allowed := false -}}
{{- range $policy.kafka.ports -}}
{{- if and (ge $port (int .port)) (le $port (int (default .port .endPort))) }}{{ $allowed = true }}{{ end -}}
{{- end -}}
{{- if and . (not $allowed) -}}
{{- $problems = append $problems (printf "networkPolicy.kafka.ports does not let the bridge reach port %d of bridge.bootstrapServers: add {port: %d}" $port $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if $problems -}}
{{- fail (printf "\n\nThese values cannot work:\n  - %s\n" (join "\n  - " $problems)) -}}
{{- end -}}
{{- end -}}
