//! `resources`: the stack that CDK makes of it, the policy for those without CDK, and both held
//! against what the code calls; and the stack deployed, with records delivered through it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::node::{Synthesis, cdk, node};
use crate::python::{Kind, Service, or_skipped, output, python};
use crate::{project, read};

const STACK_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy/stack.py");
/// CloudFormation takes a template of this size without a bucket to fetch it from.
const INLINE_TEMPLATE_BYTES: u64 = 51_200;

/// The only resource of `template` that is of this type, with its name in the template.
fn only<'a>(template: &'a Value, kind: &str) -> (&'a str, &'a Value) {
    let resources = template["Resources"].as_object().unwrap().iter();
    let mut found = resources.filter(|(_, resource)| resource["Type"] == kind);
    let (name, resource) = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    (name, resource)
}

fn arn(name: &str) -> Value {
    json!({ "Fn::GetAtt": [name, "Arn"] })
}

/// The ARN of every object of the bucket.
fn objects(bucket: &str) -> Value {
    json!({ "Fn::Join": ["", [arn(bucket), "/*"]] })
}

/// A file of JSON in `resources`, with a stack's values in place of those that users fill in.
fn filled(file: &str) -> Value {
    let text = read(&format!("resources/{file}"));
    let text = [("STREAM", "app-logs"), ("REGION", "us-east-1"), ("NAMESPACE", "hydrant")]
        .iter()
        .fold(text, |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
    serde_json::from_str(&text).unwrap()
}

// R-R1
#[test]
fn the_stack_is_one_template_that_needs_no_bootstrap() {
    let Some(cdk) = cdk() else { return };
    let stack = cdk.stack();
    let template = stack.template();
    // What CDK adds where it wants its own bucket and roles in the account first.
    for part in ["Parameters", "Rules", "Conditions"] {
        assert_eq!(template[part], Value::Null, "{part}");
    }
    let size = fs::metadata(stack.file()).unwrap().len();
    assert!(size < INLINE_TEMPLATE_BYTES, "{size} bytes");
}

// R-R1
#[test]
fn the_bucket_is_encrypted_private_and_outlives_the_stack() {
    let Some(cdk) = cdk() else { return };
    let template = cdk.stack().template();
    let (name, bucket) = only(&template, "AWS::S3::Bucket");
    assert_eq!(bucket["DeletionPolicy"], "Retain");
    assert_eq!(bucket["UpdateReplacePolicy"], "Retain");
    let properties = &bucket["Properties"];
    let encryption = &properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0];
    assert_eq!(encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"], "AES256");
    assert_eq!(
        properties["PublicAccessBlockConfiguration"],
        json!({ "BlockPublicAcls": true, "BlockPublicPolicy": true, "IgnorePublicAcls": true, "RestrictPublicBuckets": true })
    );
    assert_eq!(properties["OwnershipControls"]["Rules"][0]["ObjectOwnership"], "BucketOwnerEnforced");
    let rules = properties["LifecycleConfiguration"]["Rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"], 7);
    assert_eq!(rules[0]["ExpirationInDays"], Value::Null, "records are kept unless retentionDays is set");
    let (_, policy) = only(&template, "AWS::S3::BucketPolicy");
    let denied = |condition: Value| {
        json!({ "Effect": "Deny", "Action": "s3:*", "Principal": { "AWS": "*" },
            "Resource": [arn(name), objects(name)], "Condition": condition })
    };
    assert_eq!(
        policy["Properties"]["PolicyDocument"]["Statement"],
        json!([
            denied(json!({ "Bool": { "aws:SecureTransport": "false" } })),
            denied(json!({ "NumericLessThan": { "s3:TlsVersion": 1.2 } })),
        ])
    );
}

// R-R1
#[test]
fn the_stream_takes_direct_puts_and_delivers_them_into_the_bucket() {
    let Some(cdk) = cdk() else { return };
    let template = cdk.stack().template();
    let (_, stream) = only(&template, "AWS::KinesisFirehose::DeliveryStream");
    let (bucket, _) = only(&template, "AWS::S3::Bucket");
    let (role, _) = only(&template, "AWS::IAM::Role");
    let (log_group, group) = only(&template, "AWS::Logs::LogGroup");
    let (log_stream, _) = only(&template, "AWS::Logs::LogStream");
    assert_eq!(group["Properties"]["RetentionInDays"], 90);
    assert_eq!(
        stream["Properties"],
        json!({
            "DeliveryStreamName": "app-logs",
            "DeliveryStreamType": "DirectPut",
            "DeliveryStreamEncryptionConfigurationInput": { "KeyType": "AWS_OWNED_CMK" },
            "ExtendedS3DestinationConfiguration": {
                "BucketARN": arn(bucket),
                "BufferingHints": { "IntervalInSeconds": 60, "SizeInMBs": 64 },
                "CloudWatchLoggingOptions": {
                    "Enabled": true,
                    "LogGroupName": { "Ref": log_group },
                    "LogStreamName": { "Ref": log_stream },
                },
                "CompressionFormat": "GZIP",
                "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/!{timestamp:yyyy/MM/dd}/",
                "Prefix": "records/!{timestamp:yyyy/MM/dd/HH}/",
                "RoleARN": arn(role),
            },
        })
    );
}

// R-R1
#[test]
fn firehose_may_write_objects_and_errors_and_nothing_else() {
    let Some(cdk) = cdk() else { return };
    let template = cdk.stack().template();
    let (bucket, _) = only(&template, "AWS::S3::Bucket");
    let (log_group, _) = only(&template, "AWS::Logs::LogGroup");
    let (_, role) = only(&template, "AWS::IAM::Role");
    let properties = &role["Properties"];
    assert_eq!(
        properties["AssumeRolePolicyDocument"]["Statement"],
        json!([{
            "Effect": "Allow", "Action": "sts:AssumeRole",
            "Principal": { "Service": "firehose.amazonaws.com" },
            "Condition": { "StringEquals": { "sts:ExternalId": { "Ref": "AWS::AccountId" } } },
        }])
    );
    let policies = properties["Policies"].as_array().unwrap();
    assert_eq!((policies.len(), &properties["ManagedPolicyArns"]), (1, &Value::Null));
    assert_eq!(
        policies[0]["PolicyDocument"]["Statement"],
        json!([
            { "Effect": "Allow", "Resource": arn(bucket),
                "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"] },
            { "Effect": "Allow", "Resource": objects(bucket),
                "Action": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"] },
            { "Effect": "Allow", "Resource": arn(log_group), "Action": "logs:PutLogEvents" },
        ])
    );
}

/// The actions of iam-policy.json with what each is allowed on: `*` or `the stream`.
fn allowed() -> BTreeMap<String, String> {
    let policy = filled("iam-policy.json");
    let statements = policy["Statement"].as_array().unwrap().iter();
    let allowed = statements.map(|statement| {
        let on = if statement["Resource"] == "*" { "*" } else { "the stream" };
        // One action each, so that any can be left out.
        (statement["Action"].as_str().unwrap().to_owned(), on.to_owned())
    });
    allowed.collect()
}

// R-R2
#[test]
fn the_stacks_policy_is_the_one_for_those_without_cdk() {
    let Some(cdk) = cdk() else { return };
    let template = cdk.stack().template();
    let (stream, _) = only(&template, "AWS::KinesisFirehose::DeliveryStream");
    let (_, policy) = only(&template, "AWS::IAM::ManagedPolicy");
    let mut expected = filled("iam-policy.json");
    for statement in expected["Statement"].as_array_mut().unwrap() {
        if statement["Resource"] == "arn:aws:firehose:us-east-1:${ACCOUNT}:deliverystream/app-logs" {
            statement["Resource"] = arn(stream);
        }
    }
    assert_eq!(policy["Properties"]["PolicyDocument"], expected);
}

/// The README shows the least that is needed, and the rest in a table.
#[test]
fn the_readme_lists_the_permissions_of_the_policy() {
    let readme = read("README.md");
    let cells = |line: &str| -> Option<(String, String)> {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.replace('`', "")))
    };
    let is_action = |(action, _): &(String, String)| allowed().contains_key(action) || action.contains(':');
    let mut shown: BTreeMap<_, _> = readme.lines().filter_map(cells).filter(is_action).collect();
    let least = r#""Action": "firehose:PutRecordBatch",
  "Resource": "arn:aws:firehose:REGION:ACCOUNT:deliverystream/NAME""#;
    assert!(readme.contains(least));
    shown.insert("firehose:PutRecordBatch".to_owned(), "the stream".to_owned());
    assert_eq!(shown, allowed());
}

/// botocore knows all operations of the services; those that `src` calls are those allowed.
// R-R2
#[tokio::test]
async fn the_policy_allows_what_the_code_calls() {
    /// Needs no permission: `hydrant doctor` asks who the credentials are.
    const FREE: &str = "sts:GetCallerIdentity";
    const OPERATIONS: &str = "import botocore.session, botocore, json\n\
        session = botocore.session.get_session()\n\
        print(json.dumps({botocore.xform_name(name): f'{service}:{name}'\n    \
            for service in ('firehose', 'cloudwatch', 'sts')\n    \
            for name in session.get_service_model(service).operation_names}))";
    let Some(python) = python() else { return };
    let mut command = python.command("python", "http://127.0.0.1:9");
    let output = command.args(["-c", OPERATIONS]).output().await.unwrap();
    let operations: HashMap<String, String> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(operations.len() > 40, "{}", String::from_utf8_lossy(&output.stderr));
    let mut called = BTreeSet::new();
    for file in sources(&project("src")) {
        // The embedded services answer these calls and make none.
        if !file.starts_with(project("src/local")) {
            let text = fs::read_to_string(file).unwrap();
            let calls = text.split('.').filter_map(|rest| rest.split_once("()"));
            called.extend(calls.filter_map(|(name, _)| operations.get(name)).cloned());
        }
    }
    assert!(called.remove(FREE), "{called:?}");
    assert_eq!(called, allowed().into_keys().collect());
}

fn sources(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The alarms of `template`, by name.
fn alarms(template: &Value) -> BTreeMap<String, Value> {
    let resources = template["Resources"].as_object().unwrap().values();
    let alarms = resources.filter(|resource| resource["Type"] == "AWS::CloudWatch::Alarm");
    alarms
        .map(|alarm| {
            let properties = alarm["Properties"].clone();
            (properties["AlarmName"].as_str().unwrap().to_owned(), properties)
        })
        .collect()
}

// R-R2
#[test]
fn the_stacks_alarms_and_dashboard_are_those_of_the_files() {
    let Some(cdk) = cdk() else { return };
    let template = cdk.stack().template();
    let mut expected = BTreeMap::new();
    for mut alarm in filled("cloudwatch-alarms.json").as_array().unwrap().clone() {
        // Nobody is told unless the settings say who.
        for action in ["AlarmActions", "OKActions"] {
            alarm.as_object_mut().unwrap().remove(action);
        }
        expected.insert(alarm["AlarmName"].as_str().unwrap().to_owned(), alarm);
    }
    assert_eq!(alarms(&template), expected);
    let (_, dashboard) = only(&template, "AWS::CloudWatch::Dashboard");
    let body: Value =
        serde_json::from_str(dashboard["Properties"]["DashboardBody"].as_str().unwrap()).unwrap();
    assert_eq!(dashboard["Properties"]["DashboardName"], "hydrant-app-logs");
    assert_eq!(body, filled("cloudwatch-dashboard.json"));
}

/// The names in backticks of a table's first column, with the second.
fn rows(table: &str) -> BTreeMap<String, String> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(name, rest)| {
        (name.to_owned(), rest.split('|').next().unwrap().replace('`', "").trim().to_owned())
    })
    .collect()
}

#[test]
fn the_documented_settings_and_outputs_are_those_of_the_stack() {
    let document = read("docs/DEPLOY.md");
    let settings: Value = serde_json::from_str(&read("resources/cdk.json")).unwrap();
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let settings = settings["context"].as_object().unwrap().iter();
    let defaults = settings.map(|(name, value)| (name.clone(), text(value))).collect();
    let table = document.split_once("| setting | default |").unwrap().1;
    assert_eq!(rows(table.split("\n\n").next().unwrap()), defaults);
    let Some(cdk) = cdk() else { return };
    let outputs = document.split_once("It prints what the next steps need:").unwrap().1;
    let outputs: BTreeSet<_> = outputs.split("\n\n").next().unwrap().split('`').skip(1).step_by(2).collect();
    let template = cdk.stack().template();
    assert_eq!(outputs, template["Outputs"].as_object().unwrap().keys().map(String::as_str).collect());
}

/// moto reads policies as strictly as IAM does.
#[tokio::test]
async fn the_documented_commands_make_the_policy_without_cdk() {
    let Some(python) = python() else { return };
    if or_skipped(&output(std::process::Command::new("envsubst").arg("--version"))).is_none() {
        return;
    }
    let service = Service::start(python, Kind::Moto).await;
    let document = read("docs/DEPLOY.md");
    let mut blocks = document.split("```console\n").filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains("aws iam create-policy")).unwrap();
    let get = "aws iam get-policy-version --version-id v1 --query PolicyVersion.Document \
        --policy-arn arn:aws:iam::$ACCOUNT:policy/hydrant-app-logs >&2";
    let commands = format!("{}{get}", block.replace("$ ", ""));
    let mut shell = python.shell(&service.endpoint);
    let ended = shell.current_dir(project("")).args(["-euc", &commands]).output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{commands}\n{said}");
    let policy: Value = serde_json::from_str(&said).unwrap();
    let stream = "arn:aws:firehose:eu-west-1:123456789012:deliverystream/app-logs";
    for statement in policy["Statement"].as_array().unwrap() {
        let resource = &statement["Resource"];
        let of_stream = statement["Action"].as_str().unwrap().starts_with("firehose:");
        assert_eq!(resource, if of_stream { stream } else { "*" }, "{policy:#}");
    }
    assert_eq!(policy["Statement"].as_array().unwrap().len(), allowed().len());
    assert_eq!(policy["Statement"][4]["Condition"]["StringEquals"]["cloudwatch:namespace"], "hydrant");
}

// R-R4
#[test]
fn every_setting_changes_what_it_is_for() {
    let Some(cdk) = cdk() else { return };
    let changed = cdk.synth(&[
        "region=eu-west-1",
        "deliveryStreamName=web.access",
        "bufferingIntervalSeconds=900",
        "bufferingSizeMiB=1",
        "compression=UNCOMPRESSED",
        "retentionDays=30",
        "metricsNamespace=",
        "alarmEmail=ops@example.com",
    ]);
    let template = changed.template();
    assert_eq!(template["Outputs"]["Region"]["Value"], "eu-west-1");
    let (_, stream) = only(&template, "AWS::KinesisFirehose::DeliveryStream");
    assert_eq!(stream["Properties"]["DeliveryStreamName"], "web.access");
    let destination = destination(&changed);
    assert_eq!(destination["BufferingHints"], json!({ "IntervalInSeconds": 900, "SizeInMBs": 1 }));
    assert_eq!(destination["CompressionFormat"], Value::Null);
    let (_, bucket) = only(&template, "AWS::S3::Bucket");
    assert_eq!(bucket["Properties"]["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"], 30);
    let (_, subscription) = only(&template, "AWS::SNS::Subscription");
    assert_eq!(subscription["Properties"]["Endpoint"], "ops@example.com");
    let (topic, _) = only(&template, "AWS::SNS::Topic");
    let (_, policy) = only(&template, "AWS::SNS::TopicPolicy");
    let publish = policy["Properties"]["PolicyDocument"]["Statement"].as_array().unwrap();
    let cloudwatch = json!({ "Service": "cloudwatch.amazonaws.com" });
    assert!(
        publish.iter().any(|it| it["Effect"] == "Allow" && it["Principal"] == cloudwatch),
        "{publish:#?}"
    );
    let alarms = alarms(&template);
    assert_eq!(alarms.len(), 6, "{:?}", alarms.keys());
    for alarm in alarms.values() {
        assert_eq!(alarm["AlarmActions"], json!([{ "Ref": topic }]));
        assert_eq!(alarm["OKActions"], json!([{ "Ref": topic }]));
    }
    // An interval is not a delay, or the alarm would be raised for ever.
    assert_eq!(alarms["hydrant-web.access-data-freshness"]["Threshold"], 1800);
    let whole = serde_json::to_string(&template).unwrap();
    for unpublished in ["PutMetricData", "RecordsReceived", "RecordsDropped", "not published"] {
        assert!(!whole.contains(unpublished), "{unpublished}");
    }
    lint(&changed);
}

/// The destination of a stack with these settings.
fn destination(synthesis: &Synthesis) -> Value {
    let template = synthesis.template();
    let (_, stream) = only(&template, "AWS::KinesisFirehose::DeliveryStream");
    stream["Properties"]["ExtendedS3DestinationConfiguration"].clone()
}

// R-R4
#[test]
fn what_hydrant_compresses_is_not_compressed_again_and_named_by_its_format() {
    let Some(cdk) = cdk() else { return };
    let check = |settings: &[&str], format: Value, extension: Value| {
        let synthesis = cdk.synth(settings);
        let destination = destination(&synthesis);
        let have = (&destination["CompressionFormat"], &destination["FileExtension"]);
        assert_eq!(have, (&format, &extension), "{settings:?}");
        lint(&synthesis);
    };
    check(&["aggregateCompression=zstd"], Value::Null, ".zst".into());
    check(
        &["aggregateCompression=gzip", "compression=UNCOMPRESSED", "fileExtension=.json.gz"],
        Value::Null,
        ".json.gz".into(),
    );
    check(&["fileExtension=.json"], "GZIP".into(), ".json".into());
    // Both would be read by nobody.
    let wrong = cdk.synth(&["aggregateCompression=zstd", "compression=GZIP", "fileExtension=.gz"]);
    assert!(wrong.has_failed());
    for expected in [
        "compression is GZIP, and aggregateCompression zstd: what hydrant has compressed must not be compressed again",
        r#"fileExtension is ".gz": it must end with .zst"#,
    ] {
        assert!(wrong.said().contains(expected), "{expected}\nnot in: {}", wrong.said());
    }
}

// R-R4
#[test]
fn wrong_settings_are_named_all_at_once() {
    let Some(cdk) = cdk() else { return };
    let wrong = cdk.synth(&[
        "region=moon",
        "compression=LZMA",
        "aggregateCompression=lz4",
        "fileExtension=gz",
        "bufferingSizeMiB=129",
        "bufferingIntervalSeconds=soon",
        "metricsNamespace=AWS/Firehose",
    ]);
    assert!(wrong.has_failed());
    for expected in [
        r#"region is "moon": it must be the name of an AWS region, such as eu-west-1"#,
        r#"compression is "LZMA": it must be one of UNCOMPRESSED, GZIP, ZIP, SNAPPY, HADOOP_SNAPPY, or empty"#,
        r#"aggregateCompression is "lz4": it must be none, gzip or zstd"#,
        r#"fileExtension is "gz": it must be a dot and up to 127"#,
        "bufferingSizeMiB is 129: it must be 1 to 128",
        r#"bufferingIntervalSeconds is "soon": it must be a whole number, 0 to 900"#,
        r#"metricsNamespace is "AWS/Firehose": it must be a CloudWatch namespace outside AWS/, or empty"#,
    ] {
        assert!(wrong.said().contains(expected), "{expected}\nnot in: {}", wrong.said());
    }
}

/// Fails with what cfn-lint has to say about the template.
fn lint(synthesis: &Synthesis) {
    let Some(python) = python() else { return };
    let mut command = python.command("cfn-lint", "http://127.0.0.1:9").into_std();
    let output = command.arg(synthesis.file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn cfn_lint_has_nothing_to_say_about_the_stack() {
    let Some(cdk) = cdk() else { return };
    lint(cdk.stack());
}

/// The template without the alarms on metric math, which ministack's CloudFormation does not take.
fn without_metric_math(mut template: Value) -> Value {
    let resources = template["Resources"].as_object_mut().unwrap();
    resources.retain(|_, resource| resource["Properties"]["Metrics"].is_null());
    template
}

/// As a newcomer goes: deploy, take the outputs, run hydrant with them, send sample records, and
/// find them in the bucket. The cloud is ministack, which knows nothing of hydrant or CDK.
// R-R3
#[tokio::test]
async fn records_go_through_the_deployed_stack_into_its_bucket_each_once() {
    const RECORDS: u64 = 3000;
    let (Some(cdk), Some(python)) = (cdk(), python()) else { return };
    let Some(mut generate) = node("generate-data.js") else { return };
    let service = Service::start(python, Kind::Ministack).await;
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template.json");
    fs::write(&template, without_metric_math(cdk.stack().template()).to_string()).unwrap();
    let call = async |arguments: &[&str]| -> Value {
        serde_json::from_str(&python.run(&service.endpoint, STACK_SCRIPT, arguments).await).unwrap()
    };
    let outputs = call(&["deploy", "hydrant-app-logs", template.to_str().unwrap()]).await;
    let output =
        |name: &str| outputs[name].as_str().unwrap_or_else(|| panic!("no output {name}: {outputs:#}"));
    assert!(output("ProducerPolicyArn").starts_with("arn:aws:iam::"), "{outputs:#}");
    let watched = call(&["watched"]).await;
    assert_eq!(watched["alarms"].as_array().unwrap().len(), 12, "{watched:#}");
    assert_eq!(watched["dashboards"], json!(["hydrant-app-logs"]), "{watched:#}");

    let settings = [
        format!("delivery_stream_name={}", output("DeliveryStreamName")),
        format!("region={}", output("Region")),
    ];
    let daemon = Daemon::start(&service.endpoint, &settings.each_ref().map(String::as_str)).await;
    let count = RECORDS.to_string();
    generate.args(["--count", &count, "--seed", "7"]);
    let to = format!("unix:{}", daemon.socket().display());
    let sent = generate.args(["--to", &to]).output().await.unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let status = daemon.until_settled(RECORDS).await;
    assert_eq!(status["ledger"]["delivered"]["records"], RECORDS, "{status:#}");
    assert!(daemon.stop().await.status.success());

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let keys = call(&["collect", output("BucketName"), path]).await;
    for key in keys.as_array().unwrap() {
        assert!(key.as_str().unwrap().starts_with("records/"), "{key}");
    }
    let mut delivered = HashMap::<Vec<u8>, usize>::new();
    for file in fs::read_dir(directory.path()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        for record in bytes.split_inclusive(|byte| *byte == b'\n') {
            *delivered.entry(record.to_owned()).or_default() += 1;
        }
    }
    let mut again = node("generate-data.js").unwrap();
    let expected = again.args(["--count", &count, "--seed", "7"]).output().await.unwrap().stdout;
    for record in expected.split_inclusive(|byte| *byte == b'\n') {
        assert_eq!(delivered.remove(record), Some(1), "{}", record.escape_ascii());
    }
    assert!(delivered.is_empty(), "{} records that nobody sent", delivered.len());
}
